//! Both block groups and the prefixes cached in them: what sequences hold, share and give back.
//!
//! The full group keeps every position of a sequence. The window group keeps what the next position
//! can see, the last `window - 1` positions, plus what the rows of the current step write. Blocks
//! that a sequence has filled are entered into the prefix tree; if the tree already knows the
//! content, the sequence takes the known block and gives its own back, so that equal prefixes are
//! kept once.
//!
//! That last rule carries an invariant: of every content it has passed, a sequence holds the very
//! block that the tree names. Hence no content that a sequence builds on is ever reused under it.

use std::collections::VecDeque;

use crate::block_pool::BlockPool;
use crate::executor::{AdapterId, BlockId, ExecutorSpec, TokenId};
use crate::prefix_cache::{ContentId, Hit, PrefixCache};

/// Longest sequence that one executor can serve: its context, or less if its pools hold less.
///
/// The last token of a sequence is never computed and needs no slot. In the window group a sequence
/// needs the blocks that one window can touch, or blocks for all positions if they are fewer.
pub(crate) fn max_context_len(spec: &ExecutorSpec) -> u32 {
    let full_len = spec.num_full_blocks.saturating_mul(spec.block_size);
    let window_len = if spec.num_window_blocks > num_window_blocks(spec) {
        u32::MAX
    } else {
        spec.num_window_blocks.saturating_mul(spec.block_size)
    };
    spec.context_len.min(full_len.min(window_len).saturating_add(1))
}

/// Blocks that cover the `window - 1` positions before a block's first one.
fn num_window_blocks(spec: &ExecutorSpec) -> u32 {
    (spec.window - 1).div_ceil(spec.block_size)
}

/// What one sequence holds.
#[derive(Debug)]
pub(crate) struct BlockTables {
    /// Blocks of the full group, from position 0.
    pub(crate) full: Vec<BlockId>,
    /// Blocks of the window group, from block [`Self::window_first_block`] of the sequence.
    pub(crate) window: VecDeque<BlockId>,
    /// How many blocks of the sequence the window has left behind.
    pub(crate) window_first_block: usize,
    /// The empty prefix from which its content follows.
    root: ContentId,
    /// Blocks of the sequence that are in the prefix tree, and the content of the last of them.
    num_cached_blocks: usize,
    last_content: ContentId,
}

impl BlockTables {
    /// Holds nothing yet, and then what is computed with this adapter.
    pub(crate) fn new(adapter: Option<AdapterId>) -> Self {
        Self::empty(ContentId::Root(adapter))
    }

    fn empty(root: ContentId) -> Self {
        Self {
            full: Vec::new(),
            window: VecDeque::new(),
            window_first_block: 0,
            root,
            num_cached_blocks: 0,
            last_content: root,
        }
    }

    /// The first block of the sequence for which the window group has no block yet.
    fn window_end_block(&self) -> usize {
        self.window_first_block + self.window.len()
    }
}

/// The blocks of an executor.
#[derive(Debug)]
pub(crate) struct KvCache {
    full: BlockPool,
    window: BlockPool,
    /// `None` if prefixes are not shared.
    prefixes: Option<PrefixCache>,
    block_size: usize,
    window_len: usize,
    num_window_blocks: usize,
}

impl KvCache {
    /// All blocks free.
    pub(crate) fn new(spec: &ExecutorSpec, prefix_cache: bool) -> Self {
        Self {
            full: BlockPool::new(spec.num_full_blocks),
            window: BlockPool::new(spec.num_window_blocks),
            prefixes: prefix_cache.then(PrefixCache::default),
            block_size: spec.block_size as usize,
            window_len: spec.window as usize,
            num_window_blocks: num_window_blocks(spec) as usize,
        }
    }

    /// The pool of the full group, to be counted.
    pub(crate) fn full(&self) -> &BlockPool {
        &self.full
    }

    /// The pool of the window group, to be counted.
    pub(crate) fn window(&self) -> &BlockPool {
        &self.window
    }

    /// Gives a sequence that holds nothing the longest cached prefix of `tokens` and full blocks
    /// for the rest of them. Returns how many positions need no computing: never all, since the
    /// last one's logits are wanted.
    ///
    /// `None`, and nothing given, if that would leave fewer than `num_spare` free blocks in a
    /// group, beyond the window block that the first computed position needs.
    pub(crate) fn admit(
        &mut self,
        tables: &mut BlockTables,
        tokens: &[TokenId],
        num_spare: usize,
    ) -> Option<usize> {
        assert!(tables.full.is_empty() && tables.window.is_empty(), "a sequence is admitted twice");
        // At least one block of each group is new: no need to search while there is none.
        if self.full.num_free() <= num_spare || self.window.num_free() <= num_spare {
            return None;
        }
        let num_blocks = tokens.len().div_ceil(self.block_size);
        let cacheable = tokens[..tokens.len() - 1].chunks_exact(self.block_size);
        let hit = match &self.prefixes {
            Some(prefixes) => prefixes.find(tables.root, cacheable, self.num_window_blocks),
            None => Hit::none(tables.root),
        };
        let num_free_in = |pool: &BlockPool, blocks: &[BlockId]| {
            blocks.iter().filter(|&&id| pool.is_free(id)).count()
        };
        let num_full_needed =
            num_blocks - hit.full_blocks.len() + num_free_in(&self.full, &hit.full_blocks);
        let num_window_needed = 1 + num_free_in(&self.window, &hit.window_blocks);
        if self.full.num_free() < num_full_needed + num_spare
            || self.window.num_free() < num_window_needed + num_spare
        {
            return None;
        }
        // The cached blocks are held before any block is allocated, or they could be what is
        // reused.
        hit.full_blocks.iter().for_each(|&id| self.full.acquire(id));
        hit.window_blocks.iter().for_each(|&id| self.window.acquire(id));
        tables.num_cached_blocks = hit.full_blocks.len();
        tables.window_first_block = hit.full_blocks.len() - hit.window_blocks.len();
        tables.last_content = hit.last_content;
        tables.full = hit.full_blocks;
        tables.window = hit.window_blocks.into();
        while tables.full.len() < num_blocks {
            tables.full.push(self.allocate_full());
        }
        Some(tables.num_cached_blocks * self.block_size)
    }

    /// How many rows from `position` on the sequence's blocks and the free ones have slots for.
    pub(crate) fn num_rows_that_fit(&self, tables: &BlockTables, position: usize) -> usize {
        let num_full_blocks = tables.full.len() + self.full.num_free();
        let num_window_blocks = tables.window_end_block() + self.window.num_free();
        (num_full_blocks.min(num_window_blocks) * self.block_size).saturating_sub(position)
    }

    /// Gives the sequence blocks up to position `end`, exclusive. The caller knows that they fit.
    pub(crate) fn extend(&mut self, tables: &mut BlockTables, end: usize) {
        let num_blocks = end.div_ceil(self.block_size);
        while tables.full.len() < num_blocks {
            tables.full.push(self.allocate_full());
        }
        while tables.window_end_block() < num_blocks {
            tables.window.push_back(self.allocate_window());
        }
    }

    /// Takes note that the first `num_computed` positions are computed: enters the blocks they have
    /// filled into the prefix tree and frees the window blocks that no later position can see.
    pub(crate) fn advance(
        &mut self,
        tables: &mut BlockTables,
        tokens: &[TokenId],
        num_computed: usize,
    ) {
        while (tables.num_cached_blocks + 1) * self.block_size <= num_computed {
            let start = tables.num_cached_blocks * self.block_size;
            self.enter(tables, &tokens[start..start + self.block_size]);
            tables.num_cached_blocks += 1;
        }
        // Position p sees p - window + 1 .. p, and the next one to be computed is `num_computed`.
        let first_block = (num_computed + 1).saturating_sub(self.window_len) / self.block_size;
        while tables.window_first_block < first_block {
            let id = tables.window.pop_front().expect("computed positions have window blocks");
            self.window.release(id);
            tables.window_first_block += 1;
        }
    }

    /// Takes everything back. What is cached stays findable; the end of a sequence is reused before
    /// its beginning, which more prompts have in common.
    pub(crate) fn release(&mut self, tables: &mut BlockTables) {
        let empty = BlockTables::empty(tables.root);
        let BlockTables { full, window, .. } = std::mem::replace(tables, empty);
        full.into_iter().rev().for_each(|id| self.full.release(id));
        window.into_iter().rev().for_each(|id| self.window.release(id));
    }

    /// Enters the sequence's first block that is not yet in the tree.
    fn enter(&mut self, tables: &mut BlockTables, tokens: &[TokenId]) {
        let Some(prefixes) = &mut self.prefixes else { return };
        let index = tables.num_cached_blocks;
        let full = &mut tables.full[index];
        let window = &mut tables.window[index - tables.window_first_block];
        let content = match prefixes.child(tables.last_content, tokens) {
            Some(content) => {
                exchange(&mut self.full, full, prefixes.full_block(content));
                content
            }
            None => {
                let content = prefixes.insert(tables.last_content, tokens, *full);
                self.full.set_content(*full, content);
                content
            }
        };
        match prefixes.window_block(content) {
            Some(known) => exchange(&mut self.window, window, known),
            None => {
                prefixes.set_window_block(content, Some(*window));
                self.window.set_content(*window, content);
            }
        }
        tables.last_content = content;
    }

    /// Checks that exactly these tables hold blocks, and that nobody writes into a block that
    /// others hold.
    #[cfg(test)]
    pub(crate) fn assert_held_by<'a>(&self, held: impl Iterator<Item = &'a BlockTables>) {
        let mut full = vec![0; self.full.len()];
        let mut window = vec![0; self.window.len()];
        for tables in held {
            tables.full.iter().for_each(|&id| full[id as usize] += 1);
            tables.window.iter().for_each(|&id| window[id as usize] += 1);
            let own_full = &tables.full[tables.num_cached_blocks..];
            assert!(own_full.iter().all(|&id| self.full.num_holders(id) == 1), "shared tail");
            let num_shared = tables.num_cached_blocks.saturating_sub(tables.window_first_block);
            let mut own_window = tables.window.iter().skip(num_shared);
            assert!(own_window.all(|&id| self.window.num_holders(id) == 1), "shared window tail");
        }
        for (pool, counts) in [(&self.full, full), (&self.window, window)] {
            for (id, count) in (0..).zip(counts) {
                assert_eq!(pool.num_holders(id), count, "holders of block {id}");
            }
        }
    }

    fn allocate_full(&mut self) -> BlockId {
        let (id, lost) = self.full.allocate();
        // A content without its full block is of no use, so its window block is no longer worth
        // keeping. It is free: who holds a window block of a content holds the full one too.
        if let Some(prefixes) = &mut self.prefixes
            && let Some(window_block) = lost.and_then(|content| prefixes.remove(content))
        {
            self.window.clear_content(window_block);
        }
        id
    }

    fn allocate_window(&mut self) -> BlockId {
        let (id, lost) = self.window.allocate();
        if let (Some(prefixes), Some(content)) = (&mut self.prefixes, lost) {
            prefixes.set_window_block(content, None);
        }
        id
    }
}

/// Holds `known` in place of the block in `entry`, which has the same content.
fn exchange(pool: &mut BlockPool, entry: &mut BlockId, known: BlockId) {
    pool.acquire(known);
    pool.release(*entry);
    *entry = known;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{prompt, small_spec};

    /// Computes `tokens` in one step and returns what is held then.
    fn compute(cache: &mut KvCache, tokens: &[TokenId]) -> (BlockTables, usize) {
        compute_with(cache, None, tokens)
    }

    fn compute_with(
        cache: &mut KvCache,
        adapter: Option<AdapterId>,
        tokens: &[TokenId],
    ) -> (BlockTables, usize) {
        let mut tables = BlockTables::new(adapter);
        let num_cached = cache.admit(&mut tables, tokens, 0).expect("there is room");
        cache.extend(&mut tables, tokens.len());
        cache.advance(&mut tables, tokens, tokens.len());
        cache.assert_held_by(std::iter::once(&tables));
        (tables, num_cached)
    }

    fn compute_and_release(cache: &mut KvCache, tokens: &[TokenId]) -> usize {
        let (mut tables, num_cached) = compute(cache, tokens);
        cache.release(&mut tables);
        cache.assert_held_by(std::iter::empty());
        num_cached
    }

    #[test]
    fn a_prompt_hits_all_but_the_block_of_its_last_token() {
        let mut cache = KvCache::new(&small_spec(), true);
        let tokens = prompt(1, 33);
        assert_eq!(compute_and_release(&mut cache, &tokens), 0);
        assert_eq!(compute_and_release(&mut cache, &tokens), 32);
        // A whole prompt is never taken from the cache: without a row there are no logits.
        assert_eq!(compute_and_release(&mut cache, &tokens[..32]), 28);
        assert_eq!(compute_and_release(&mut cache, &tokens[..4]), 0);
    }

    #[test]
    fn a_prompt_that_parts_from_another_hits_what_they_share() {
        let mut cache = KvCache::new(&small_spec(), true);
        let first = prompt(1, 33);
        let second = [&first[..18], &prompt(2, 20)].concat();
        compute_and_release(&mut cache, &first);
        assert_eq!(compute_and_release(&mut cache, &second), 16);
        assert_eq!(compute_and_release(&mut cache, &second), 36);
    }

    #[test]
    fn nothing_is_shared_between_adapters() {
        let mut cache = KvCache::new(&small_spec(), true);
        let tokens = prompt(1, 33);
        for num_cached in [0, 32] {
            for adapter in [None, Some(AdapterId(0)), Some(AdapterId(1))] {
                let (mut tables, found) = compute_with(&mut cache, adapter, &tokens);
                assert_eq!(found, num_cached, "{adapter:?}");
                // What was released is taken again for the same adapter.
                cache.release(&mut tables);
                assert_eq!(cache.admit(&mut tables, &tokens, 0), Some(32), "{adapter:?}");
                cache.release(&mut tables);
            }
        }
    }

    #[test]
    fn nothing_is_shared_when_the_prefix_cache_is_off() {
        let mut cache = KvCache::new(&small_spec(), false);
        let tokens = prompt(1, 33);
        assert_eq!(compute_and_release(&mut cache, &tokens), 0);
        assert_eq!(compute_and_release(&mut cache, &tokens), 0);
    }

    #[test]
    fn the_window_group_keeps_only_what_the_next_position_sees() {
        let mut cache = KvCache::new(&small_spec(), true);
        // Window 8: position 33 sees 26 .. 33, and 26 is in block 6.
        let (tables, _) = compute(&mut cache, &prompt(1, 33));
        assert_eq!((tables.window_first_block, tables.window.len()), (6, 3));
        assert_eq!((cache.full().num_used(), cache.window().num_used()), (9, 3));
    }

    #[test]
    fn a_hit_brings_the_window_blocks_before_it() {
        let mut cache = KvCache::new(&small_spec(), true);
        compute_and_release(&mut cache, &prompt(1, 33));
        let mut tables = BlockTables::new(None);
        assert_eq!(cache.admit(&mut tables, &prompt(1, 33), 0), Some(32));
        // Position 32 sees 25 .. 32: blocks 6 and 7 from the cache, block 8 to come.
        assert_eq!((tables.window_first_block, tables.window.len()), (6, 2));
    }

    #[test]
    fn a_hit_ends_where_its_window_blocks_were_reused() {
        // How many of the 9 window blocks are reused after a prompt of 33 tokens, and what is then
        // left of it. Order of reuse: the block that was never filled, those the window left
        // behind, the last two.
        for (num_reused, expected) in [(7, 32), (8, 0)] {
            let spec = ExecutorSpec { num_window_blocks: 9, ..small_spec() };
            let mut cache = KvCache::new(&spec, true);
            let tokens = prompt(1, 33);
            compute_and_release(&mut cache, &tokens);
            let reused: Vec<_> = (0..num_reused).map(|_| cache.allocate_window()).collect();
            reused.into_iter().for_each(|id| cache.window.release(id));
            assert_eq!(compute_and_release(&mut cache, &tokens), expected, "{num_reused} reused");
        }
    }

    #[test]
    fn equal_blocks_that_are_computed_side_by_side_are_kept_once() {
        let mut cache = KvCache::new(&small_spec(), true);
        let tokens = prompt(1, 9);
        let mut both = [BlockTables::new(None), BlockTables::new(None)];
        for tables in &mut both {
            assert_eq!(cache.admit(tables, &tokens, 0), Some(0));
            cache.extend(tables, 9);
        }
        assert_eq!((cache.full().num_used(), cache.window().num_used()), (6, 6));
        both.iter_mut().for_each(|tables| cache.advance(tables, &tokens, 9));
        cache.assert_held_by(both.iter());
        assert_eq!((cache.full().num_used(), cache.window().num_used()), (4, 4));
        assert_eq!(both[0].full[..2], both[1].full[..2]);
        assert_ne!(both[0].full[2], both[1].full[2]);
    }

    #[test]
    fn an_old_prefix_makes_way_for_a_new_one_from_its_end() {
        let spec = ExecutorSpec { num_full_blocks: 8, ..small_spec() };
        let mut cache = KvCache::new(&spec, true);
        let (old, new) = (prompt(1, 24), prompt(2, 16));
        compute_and_release(&mut cache, &old);
        // Two blocks are unused and two more are taken from the end of the old prefix.
        compute_and_release(&mut cache, &new);
        assert_eq!(compute_and_release(&mut cache, &old), 16);
    }

    #[test]
    fn admission_counts_cached_blocks_that_nobody_holds_as_free_only_once() {
        let spec = ExecutorSpec { num_full_blocks: 4, ..small_spec() };
        let mut cache = KvCache::new(&spec, true);
        let tokens = prompt(1, 16);
        compute_and_release(&mut cache, &tokens);
        let longer = prompt(1, 17);
        let mut tables = BlockTables::new(None);
        assert_eq!(cache.admit(&mut tables, &longer, 0), None);
        assert_eq!(cache.admit(&mut tables, &tokens, 1), None);
        cache.assert_held_by(std::iter::empty());
        assert_eq!(cache.admit(&mut tables, &tokens, 0), Some(12));
    }

    #[test]
    fn admission_keeps_a_window_block_for_the_first_row() {
        let spec = ExecutorSpec { num_window_blocks: 4, ..small_spec() };
        let mut cache = KvCache::new(&spec, true);
        let tokens = prompt(1, 16);
        compute_and_release(&mut cache, &tokens);
        // 2 from the cache, 1 for the row, and what is to be spared.
        let mut tables = BlockTables::new(None);
        assert_eq!(cache.admit(&mut tables, &tokens, 2), None);
        assert_eq!(cache.admit(&mut tables, &tokens, 1), Some(12));
        assert_eq!(cache.window().num_free(), 2);
    }

    #[test]
    fn the_context_is_what_the_pools_can_hold() {
        let check = |num_full_blocks, num_window_blocks, expected| {
            let spec = ExecutorSpec { num_full_blocks, num_window_blocks, ..small_spec() };
            assert_eq!(max_context_len(&spec), expected, "{num_full_blocks}, {num_window_blocks}");
        };
        check(64, 64, 64);
        check(u32::MAX, u32::MAX, 64);
        check(15, 64, 61);
        check(0, 64, 1);
        // A window of 8 can touch 3 blocks of 4; with fewer, sequences end before the window moves.
        check(64, 3, 64);
        check(64, 2, 9);
        check(64, 0, 1);
    }
}
