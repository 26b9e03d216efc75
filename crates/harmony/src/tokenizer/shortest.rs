//! A lower bound on the number of tokens of a text, from the vocabulary alone.
//!
//! Where two bytes stand side by side in a token, it has some bytes before the pair and some behind it, at most as
//! many as any token of the vocabulary has there. Call a stretch of text possible when each of its pairs keeps to
//! that; every token is. Whatever is cut out of a possible stretch is possible too, and for such a family taking the
//! longest possible stretch again and again divides the text into the fewest. Its tokens divide it as well, so there
//! are no fewer of them.

/// The most bytes that any token has around a pair of bytes.
#[derive(Clone, Copy)]
struct Room {
    before: u32,
    behind: u32,
}

pub(super) struct Shortest {
    /// Indexed by the pair; `None` where no token has it.
    rooms: Box<[Option<Room>]>,
}

impl Shortest {
    /// Takes the bytes of every token.
    pub(super) fn new<'a>(tokens: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut rooms: Box<[Option<Room>]> = vec![None; 1 << 16].into();
        // Above this length, which no vocabulary comes near, it is as good as none.
        let bounded = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        for token in tokens {
            for (at, pair) in token.windows(2).enumerate() {
                let room =
                    rooms[index(pair[0], pair[1])].get_or_insert(Room { before: 0, behind: 0 });
                room.before = room.before.max(bounded(at));
                room.behind = room.behind.max(bounded(token.len() - at - 2));
            }
        }
        Self { rooms }
    }

    /// The fewest possible stretches that make up the text.
    pub(super) fn num_tokens(&self, text: &[u8]) -> usize {
        let Some((&first, rest)) = text.split_first() else { return 0 };
        let mut num_tokens = 1;
        let mut last = first;
        // Of the stretch so far: its bytes before `last`, and how many more it may take.
        let (mut len, mut room_left) = (0_u32, u32::MAX);
        for &byte in rest {
            match self.rooms[index(last, byte)] {
                Some(room) if room_left > 0 && len <= room.before => {
                    room_left = room.behind.min(room_left - 1);
                    len += 1;
                }
                _ => {
                    num_tokens += 1;
                    (len, room_left) = (0, u32::MAX);
                }
            }
            last = byte;
        }
        num_tokens
    }
}

fn index(first: u8, second: u8) -> usize {
    usize::from(u16::from_be_bytes([first, second]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_counts_what_no_token_can_join() {
        let shortest =
            Shortest::new([" one", "two", " two", "on", "  ", "n"].map(str::as_bytes).into_iter());
        for (text, num_tokens) in [
            ("", 0),
            ("?", 1),
            ("??", 2),
            (" one", 1),
            (" one two", 2),
            // No token has more than two blanks, nor "o" behind "e".
            ("      ", 3),
            ("oneone", 2),
            // " t" begins a token only.
            ("  two", 2),
        ] {
            assert_eq!(shortest.num_tokens(text.as_bytes()), num_tokens, "{text:?}");
        }
    }
}
