//! The codec gives back what it was given, however the bytes are cut.

use harmonium_openai::sse::{Decoder, Event, Limits, encode_comment};
use proptest::prelude::*;

/// Line ends become `\n` on the way: that is the one thing the format cannot carry.
fn normalized(data: &str) -> String {
    data.replace("\r\n", "\n").replace('\r', "\n")
}

fn event() -> impl Strategy<Value = Event> {
    let name = proptest::option::of("[a-z_.]{1,12}");
    let data =
        prop_oneof![any::<String>(), "[ :\r\na\u{e9}\u{1f600}]{0,12}", "(data: |event:|\n){0,4}"];
    (name, data).prop_map(|(name, data)| Event { name, data })
}

proptest! {
    #[test]
    fn events_survive_any_split(
        events in proptest::collection::vec((event(), any::<bool>()), 0..6),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        line_end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
    ) {
        let mut bytes = Vec::new();
        for (event, has_comment) in &events {
            if *has_comment {
                bytes.extend_from_slice(&encode_comment("keep-alive"));
            }
            event.encode_into(&mut bytes);
        }
        // The encoder writes LF alone; other servers write the other line ends.
        let bytes = String::from_utf8(bytes).unwrap().replace('\n', line_end).into_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();

        let mut decoder = Decoder::new(Limits::default());
        let mut decoded = Vec::new();
        for cut in cuts.windows(2) {
            decoder.push(&bytes[cut[0]..cut[1]], &mut decoded).unwrap();
        }
        let expected: Vec<Event> = events
            .into_iter()
            .map(|(event, _)| Event { data: normalized(&event.data), ..event })
            .collect();
        prop_assert_eq!(decoded, expected);
    }

    #[test]
    fn hostile_bytes_stay_within_the_limits(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..16),
    ) {
        let limits = Limits { max_line_bytes: 48, max_event_bytes: 64 };
        let mut decoder = Decoder::new(limits);
        let mut events = Vec::new();
        for piece in &pieces {
            if decoder.push(piece, &mut events).is_err() {
                break;
            }
        }
        // A broken byte may become a replacement character of three.
        prop_assert!(events.iter().all(|event| event.data.len() <= 3 * limits.max_event_bytes));
    }
}
