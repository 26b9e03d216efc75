//! The blocks of one group: who holds them and which is reused next.
//!
//! A block is held by any number of sequences or free. Free blocks form one list in order of reuse.
//! A free block may still have cached content: it stays findable until [`BlockPool::allocate`]
//! hands the block out again, so everything that nobody holds is cache, least recently used first.
//! The pool does not know what the content is; it carries its id so that the cache can be told what
//! was lost.
//!
//! Invariants, asserted in release builds: a block is in the free list exactly when nobody holds
//! it; nobody gives back what he does not hold.

use crate::executor::BlockId;
use crate::prefix_cache::ContentId;

/// One group's blocks.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// All blocks, and one more entry that is both ends of the free list.
    blocks: Vec<Block>,
    num_free: usize,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    num_holders: u32,
    content: Option<ContentId>,
    /// Neighbors in the free list; meaningless while the block is held.
    previous: BlockId,
    next: BlockId,
}

impl BlockPool {
    /// A pool of free blocks without content.
    pub(crate) fn new(num_blocks: u32) -> Self {
        let end = Block { num_holders: 0, content: None, previous: num_blocks, next: num_blocks };
        let mut pool = Self { blocks: vec![end; num_blocks as usize + 1], num_free: 0 };
        (0..num_blocks).for_each(|id| pool.push_free(id, num_blocks));
        pool
    }

    /// Blocks that [`Self::allocate`] can still hand out.
    pub(crate) fn num_free(&self) -> usize {
        self.num_free
    }

    /// Blocks that sequences hold.
    pub(crate) fn num_used(&self) -> usize {
        self.len() - self.num_free
    }

    /// Blocks of the pool.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len() - 1
    }

    /// Whether nobody holds the block.
    pub(crate) fn is_free(&self, id: BlockId) -> bool {
        self.block(id).num_holders == 0
    }

    /// Takes the block that is next in order of reuse, for one holder. Returns the content it lost
    /// as well. The caller has made sure that a block is free.
    pub(crate) fn allocate(&mut self) -> (BlockId, Option<ContentId>) {
        let id = self.blocks[self.len()].next;
        self.acquire(id);
        (id, self.block_mut(id).content.take())
    }

    /// Adds a holder to a block, free or not; its content stays.
    pub(crate) fn acquire(&mut self, id: BlockId) {
        if self.is_free(id) {
            self.unlink(id);
        }
        self.block_mut(id).num_holders += 1;
    }

    /// Takes one holder away. A block that nobody holds any more becomes free: last in order of
    /// reuse if it has content, first if it has none.
    pub(crate) fn release(&mut self, id: BlockId) {
        let block = self.block_mut(id);
        assert!(block.num_holders > 0, "block {id} is released by someone who does not hold it");
        block.num_holders -= 1;
        if block.num_holders == 0 {
            let end = self.end();
            let before = if self.block(id).content.is_some() { end } else { self.block(end).next };
            self.push_free(id, before);
        }
    }

    /// Notes what a held block contains.
    pub(crate) fn set_content(&mut self, id: BlockId, content: ContentId) {
        let block = self.block_mut(id);
        assert!(block.num_holders > 0, "free block {id} is given content");
        assert!(block.content.is_none(), "block {id} is given content twice");
        block.content = Some(content);
    }

    /// Forgets the content of a free block, which makes it the first in order of reuse.
    pub(crate) fn clear_content(&mut self, id: BlockId) {
        assert!(self.is_free(id), "held block {id} loses its content");
        self.block_mut(id).content = None;
        self.unlink(id);
        self.push_free(id, self.block(self.end()).next);
    }

    /// The entry that ends the free list. Block ids are below it, so it fits an id as well.
    fn end(&self) -> BlockId {
        BlockId::try_from(self.len()).expect("the pool was made with a u32 of blocks")
    }

    fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id as usize]
    }

    fn block_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id as usize]
    }

    fn push_free(&mut self, id: BlockId, before: BlockId) {
        let previous = self.block(before).previous;
        let block = self.block_mut(id);
        (block.previous, block.next) = (previous, before);
        self.block_mut(previous).next = id;
        self.block_mut(before).previous = id;
        self.num_free += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        assert!(id != self.end() && self.num_free > 0, "a block is taken from an empty pool");
        let Block { previous, next, .. } = *self.block(id);
        self.block_mut(previous).next = next;
        self.block_mut(next).previous = previous;
        self.num_free -= 1;
    }

    /// Every free block in order of reuse.
    #[cfg(test)]
    pub(crate) fn free_blocks(&self) -> Vec<BlockId> {
        let next = |&id: &BlockId| Some(self.block(id).next).filter(|&next| next != self.end());
        std::iter::successors(next(&self.end()), next).collect()
    }

    /// How many sequences hold the block.
    #[cfg(test)]
    pub(crate) fn num_holders(&self, id: BlockId) -> u32 {
        self.block(id).num_holders
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_without_content_are_reused_before_cached_ones() {
        let mut pool = BlockPool::new(3);
        let (cached, _) = pool.allocate();
        let (plain, _) = pool.allocate();
        pool.set_content(cached, ContentId::Cached(7));
        pool.release(cached);
        pool.release(plain);
        assert_eq!(pool.free_blocks(), [plain, 2, cached]);
        assert_eq!(pool.allocate(), (plain, None));
        assert_eq!(pool.allocate(), (2, None));
        assert_eq!(pool.allocate(), (cached, Some(ContentId::Cached(7))));
    }

    #[test]
    fn cached_blocks_are_reused_least_recently_released_first() {
        let mut pool = BlockPool::new(2);
        for content in [1, 2] {
            let (id, _) = pool.allocate();
            pool.set_content(id, ContentId::Cached(content));
        }
        pool.release(0);
        pool.release(1);
        pool.acquire(0);
        pool.release(0);
        assert_eq!(pool.free_blocks(), [1, 0]);
    }

    #[test]
    fn a_block_is_free_only_after_its_last_holder() {
        let mut pool = BlockPool::new(1);
        let (id, _) = pool.allocate();
        pool.acquire(id);
        pool.release(id);
        assert_eq!((pool.num_free(), pool.num_used()), (0, 1));
        pool.release(id);
        assert_eq!((pool.num_free(), pool.num_used()), (1, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a plain model: a count for each block.
        #[test]
        fn free_list_holds_exactly_the_blocks_that_nobody_holds(
            num_blocks in 1_u32..8,
            moves in prop::collection::vec((0_u8..5, any::<prop::sample::Index>()), 0..100),
        ) {
            let mut pool = BlockPool::new(num_blocks);
            let mut holders = vec![0_u32; num_blocks as usize];
            let mut next_content = 1;
            for (action, index) in moves {
                let id = index.index(num_blocks as usize) as BlockId;
                let count = &mut holders[id as usize];
                match action {
                    0 if pool.num_free() > 0 => {
                        let (id, _) = pool.allocate();
                        prop_assert_eq!(std::mem::replace(&mut holders[id as usize], 1), 0);
                    }
                    1 => { pool.acquire(id); *count += 1; }
                    2 if *count > 0 => { pool.release(id); *count -= 1; }
                    3 if *count > 0 && pool.block(id).content.is_none() => {
                        pool.set_content(id, ContentId::Cached(next_content));
                        next_content += 1;
                    }
                    4 if *count == 0 => pool.clear_content(id),
                    _ => {}
                }
                let mut free = pool.free_blocks();
                prop_assert_eq!(free.len(), pool.num_free());
                free.sort_unstable();
                let expected = (0..num_blocks).filter(|&id| holders[id as usize] == 0);
                prop_assert_eq!(free, expected.collect::<Vec<_>>());
                for id in 0..num_blocks {
                    prop_assert_eq!(pool.num_holders(id), holders[id as usize]);
                }
            }
        }
    }
}
