//! How fast a long text becomes token ids, in MB/s, with the real o200k vocabulary.
//!
//! Four ways over the same mixed text: as the `tokenizers` crate encodes it, as we do on one thread and on all
//! cores, and the lower bound on its tokens, which needs no encoding.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

#[path = "../tests/support/o200k.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod o200k;

use std::fmt::Write;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use harmonium_harmony::Tokenizer;
use o200k::TOKENIZER_JSON;

const TEXT_LEN: usize = 4 << 20;

const WORDS: &str = "the of and to in is was that for with as on by at from are this which or his her an be it \
                     not have they one had word but what some we can out other were all there when use your how \
                     said each she their will up about many then them these so would like into time has look two \
                     more write go see number way could people my than first water been call who its now find \
                     long down day did get come made may part scheduler, attention tokens. Question: however, \
                     international responsibility characteristics Monday Berlin don't it's";
const OTHER: [&str; 5] = [
    "你好，世界。今天天气怎么样？我们去吃饭吧，然后一起看电影。",
    "こんにちは。カタカナと漢字のテストを書いています。",
    "Привет, как дела? Сегодня мы говорим о погоде и о книгах.",
    "नमस्ते, आप कैसे हैं? שלום, מה שלומך? مرحبا كيف حالك؟",
    "🙂 👩‍👩‍👧‍👦 🇫🇷 done 🎉🎉 e\u{301}te\u{301}",
];

/// Prose, code, data and other scripts, a line each, in the same order on every run.
fn mixed_text() -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut state = 1_u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % bound
    };
    let mut text = String::with_capacity(TEXT_LEN + 1024);
    while text.len() < TEXT_LEN {
        let kind = below(10);
        let [one, two, three] = std::array::from_fn(|_| words[below(words.len())]);
        let number = below(100_000);
        match kind {
            0..5 => {
                text.extend((0..40).flat_map(|_| [words[below(words.len())], " "]));
                writeln!(text)
            }
            5 => writeln!(text, "    let {one}_{two} = self.{three}({number}, &mut {one})?;"),
            6 => writeln!(
                text,
                "\tif ({one}{number} != null) {{\n\t\treturn {two}[{three}];\n\t}}\n"
            ),
            7 => {
                writeln!(text, "{{\"{one}\":{number},\"{two}\":[\"{three}\",-{number}.5e3,null]}}")
            }
            8 => writeln!(
                text,
                "https://example.com/{one}/{two}?{three}={number}    | {number:08x} |"
            ),
            _ => writeln!(text, "{}", OTHER[below(OTHER.len())]),
        }
        .expect("a string takes everything");
    }
    text
}

fn tokenize(criterion: &mut Criterion) {
    let ours = Tokenizer::from_bytes(&TOKENIZER_JSON).expect("the real vocabulary loads");
    let theirs = tokenizers::Tokenizer::from_bytes(&*TOKENIZER_JSON).expect("as it did for us");
    let text = mixed_text();
    let one_thread =
        rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");

    let mut group = criterion.benchmark_group("tokenize");
    group.throughput(Throughput::BytesDecimal(text.len() as u64)).sample_size(10);
    group.bench_function("by the tokenizers crate", |bencher| {
        bencher.iter(|| theirs.encode_fast(text.as_str(), false));
    });
    group.bench_function("one thread", |bencher| {
        bencher.iter(|| one_thread.install(|| ours.encode_text(&text)));
    });
    group.bench_function("all cores", |bencher| bencher.iter(|| ours.encode_text(&text)));
    group.bench_function("min_tokens", |bencher| bencher.iter(|| ours.min_tokens(&text)));
    group.finish();
}

criterion_group!(benches, tokenize);
criterion_main!(benches);
