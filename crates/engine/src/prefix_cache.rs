//! Which prefixes of earlier sequences are still in the pools: a tree of block contents.
//!
//! A content is one block's tokens after one certain content before it, so a path from the root
//! spells a prefix. The model and each of its adapters have a root of their own, for what they
//! compute of the same tokens differs. A step down the tree compares the block's tokens themselves,
//! and a content's id is never given out twice: two different prompts cannot be taken for one
//! another, whatever their hashes. Each content has its block in the full group, and lives as long
//! as that; its block in the window group may be reused earlier.
//!
//! The tree remembers block ids and nothing else about the pools; [`crate::kv_cache`] keeps both in
//! step.

use std::collections::HashMap;
use std::sync::Arc;

use crate::executor::{AdapterId, BlockId, TokenId};

/// Identity of one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ContentId {
    /// The empty one, the parent of the first block of every sequence with this adapter.
    Root(Option<AdapterId>),
    /// One that ends with a cached content; never reused.
    Cached(u64),
}

/// The tree of all contents.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    contents: HashMap<ContentId, Content>,
    /// The contents that follow each content, by their tokens. Kept apart so that the root needs no
    /// content.
    children: HashMap<ContentId, HashMap<Arc<[TokenId]>, ContentId>>,
    last_id: u64,
}

/// Tokens of one block, after one prefix.
#[derive(Debug)]
struct Content {
    parent: ContentId,
    tokens: Arc<[TokenId]>,
    full_block: BlockId,
    window_block: Option<BlockId>,
}

/// A prefix that is still there: blocks of both groups from which a sequence can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hit {
    /// The blocks of the full group from the first on.
    pub(crate) full_blocks: Vec<BlockId>,
    /// The blocks of the window group that the next position needs: the last ones of the prefix.
    pub(crate) window_blocks: Vec<BlockId>,
    /// The content of the last block.
    pub(crate) last_content: ContentId,
}

impl Hit {
    /// No prefix at all.
    pub(crate) fn none(root: ContentId) -> Self {
        Self { full_blocks: Vec::new(), window_blocks: Vec::new(), last_content: root }
    }
}

impl PrefixCache {
    /// The longest prefix of `blocks` (the tokens of one block each) from `root` whose last
    /// `num_window_blocks` blocks, or all if it is shorter, are in the window group as well.
    pub(crate) fn find<'a>(
        &self,
        root: ContentId,
        blocks: impl Iterator<Item = &'a [TokenId]>,
        num_window_blocks: usize,
    ) -> Hit {
        let mut path: Vec<(ContentId, &Content)> = Vec::new();
        let mut parent = root;
        let mut hit_len = 0;
        // Blocks at the end of the path that are in the window group.
        let mut window_len = 0;
        for tokens in blocks {
            let Some(id) = self.child(parent, tokens) else { break };
            let content = self.content(id);
            path.push((id, content));
            window_len = if content.window_block.is_some() { window_len + 1 } else { 0 };
            if window_len >= num_window_blocks.min(path.len()) {
                hit_len = path.len();
            }
            parent = id;
        }
        path.truncate(hit_len);
        let window_start = hit_len.saturating_sub(num_window_blocks);
        Hit {
            full_blocks: path.iter().map(|(_, content)| content.full_block).collect(),
            window_blocks: path[window_start..]
                .iter()
                .map(|(_, content)| content.window_block.expect("the hit ends in window blocks"))
                .collect(),
            last_content: path.last().map_or(root, |&(id, _)| id),
        }
    }

    /// The content with these tokens after `parent`.
    pub(crate) fn child(&self, parent: ContentId, tokens: &[TokenId]) -> Option<ContentId> {
        self.children.get(&parent)?.get(tokens).copied()
    }

    /// Adds the content with these tokens after `parent`, which has none yet.
    pub(crate) fn insert(
        &mut self,
        parent: ContentId,
        tokens: &[TokenId],
        full_block: BlockId,
    ) -> ContentId {
        self.last_id += 1;
        let id = ContentId::Cached(self.last_id);
        let tokens: Arc<[TokenId]> = tokens.into();
        let twin = self.children.entry(parent).or_default().insert(Arc::clone(&tokens), id);
        assert!(twin.is_none(), "a content is inserted twice");
        self.contents.insert(id, Content { parent, tokens, full_block, window_block: None });
        id
    }

    /// Forgets a content, because its block in the full group is reused. Returns its block in the
    /// window group.
    pub(crate) fn remove(&mut self, id: ContentId) -> Option<BlockId> {
        let content = self.contents.remove(&id).expect("a block's content is in the tree");
        // Who holds a block holds all blocks before it and frees them later, so they are reused
        // later.
        assert!(!self.children.contains_key(&id), "a content is lost before what follows it");
        let siblings =
            self.children.get_mut(&content.parent).expect("a content is its parent's child");
        siblings.remove(&content.tokens);
        if siblings.is_empty() {
            self.children.remove(&content.parent);
        }
        content.window_block
    }

    /// The content's block in the full group.
    pub(crate) fn full_block(&self, id: ContentId) -> BlockId {
        self.content(id).full_block
    }

    /// The content's block in the window group, if it is still there.
    pub(crate) fn window_block(&self, id: ContentId) -> Option<BlockId> {
        self.content(id).window_block
    }

    /// Notes where in the window group the content lies, or that it is no longer there.
    pub(crate) fn set_window_block(&mut self, id: ContentId, block: Option<BlockId>) {
        self.contents.get_mut(&id).expect("a block's content is in the tree").window_block = block;
    }

    fn content(&self, id: ContentId) -> &Content {
        self.contents.get(&id).expect("a block's content is in the tree")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: ContentId = ContentId::Root(None);

    /// A chain of one-token blocks 1, 2, 3, ... whose window blocks are there where `window` says
    /// so.
    fn chain(window: &[bool]) -> PrefixCache {
        let mut cache = PrefixCache::default();
        let mut parent = ROOT;
        for (block, &has_window) in (0..).zip(window) {
            parent = cache.insert(parent, &[block + 1], block);
            cache.set_window_block(parent, has_window.then_some(block + 100));
        }
        cache
    }

    fn check(window: &[bool], num_window_blocks: usize, hit_len: u32, window_blocks: &[BlockId]) {
        let tokens = [1, 2, 3, 4, 5, 6];
        let hit = chain(window).find(ROOT, tokens.chunks(1), num_window_blocks);
        assert_eq!(hit.full_blocks, (0..hit_len).collect::<Vec<_>>());
        assert_eq!(hit.window_blocks, window_blocks);
    }

    #[test]
    fn a_hit_ends_where_the_window_is_still_covered() {
        check(&[true, true, true], 2, 3, &[101, 102]);
        check(&[true, true, false], 2, 2, &[100, 101]);
        check(&[false, true, true], 2, 3, &[101, 102]);
        check(&[true, false, true], 2, 1, &[100]);
        check(&[false, true, false, true], 2, 0, &[]);
        check(&[false, false], 0, 2, &[]);
        check(&[], 2, 0, &[]);
    }

    #[test]
    fn equal_tokens_after_different_prefixes_are_different_contents() {
        let mut cache = PrefixCache::default();
        let a = cache.insert(ROOT, &[1], 0);
        let b = cache.insert(ROOT, &[2], 1);
        let after_a = cache.insert(a, &[9], 2);
        assert_eq!(cache.child(a, &[9]), Some(after_a));
        assert_eq!(cache.child(b, &[9]), None);
        assert_eq!(cache.child(ROOT, &[9]), None);
    }

    #[test]
    fn a_prefix_of_one_adapter_is_none_of_another() {
        let mut cache = chain(&[true, true]);
        let roots = [Some(AdapterId(0)), Some(AdapterId(1))].map(ContentId::Root);
        cache.insert(roots[0], &[1], 9);
        let hits = [ROOT, roots[0], roots[1]].map(|root| cache.find(root, [1, 2].chunks(1), 0));
        assert_eq!(
            hits.each_ref().map(|hit| hit.full_blocks.clone()),
            [vec![0, 1], vec![9], vec![]]
        );
        assert_eq!(hits[2], Hit::none(roots[1]));
    }

    #[test]
    fn a_removed_content_leaves_nothing_behind() {
        let mut cache = chain(&[true, true]);
        let first = cache.child(ROOT, &[1]).unwrap();
        let second = cache.child(first, &[2]).unwrap();
        assert_eq!(cache.remove(second), Some(101));
        assert_eq!(cache.remove(first), Some(100));
        assert!(cache.contents.is_empty() && cache.children.is_empty());
    }
}
