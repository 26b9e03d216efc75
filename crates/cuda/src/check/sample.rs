//! `sample` against a sort and sums in float64.

mod masks;
mod reference;

use self::masks::Allowed;
use self::reference::{adjusted, draw_error, logprobs_error, order};
use super::{Case, Report, random_f32};
use crate::ops::{
    Adjustment, MAX_ALTERNATIVES, NO_TOKEN, Sample, TokenLogprob, Wish, cuts_bytes, mask_words,
    sample, slices_bytes,
};
use crate::{Device, Result};

/// How far a draw may fall beside its token, as a share of all probability, and a log-probability from its own. Float32
/// exponentials of arguments up to -20 are wrong by 1e-6 of themselves, and sums by less.
const TOLERANCE: f64 = 4e-6;
/// What a row's wish may be, and what it stands for.
const ALL: Wish = Wish {
    random: 0,
    first_adjustment: 0,
    num_adjustments: 0,
    choice: Wish::DRAW,
    top_k: 0,
    scale: 1.0,
    top_p: 1.0,
    min_log: f32::NEG_INFINITY,
    repetition: 1.3,
    frequency: 0.4,
    presence: 0.25,
    num_logprobs: 0,
    mask: 0,
};
const GREEDY: Wish = Wish { choice: Wish::GREEDY, ..ALL };
/// The adjustments of a row that wants them: first that of the greatest logit, then of many others.
const ADJUSTED: Wish = Wish { num_adjustments: 300, ..ALL };

/// Every parameter alone, at its bounds, and together.
const WISHES: &[Wish] = &[
    GREEDY,
    Wish { num_logprobs: 21, num_adjustments: 300, ..GREEDY },
    Wish { num_logprobs: 1, ..ALL },
    Wish { scale: 1.0 / 0.6, ..ALL },
    Wish { scale: 0.5, num_logprobs: 6, ..ALL },
    Wish { scale: 1e5, ..ALL },
    Wish { top_k: 1, ..ALL },
    Wish { top_k: 7, scale: 0.1, ..ALL },
    Wish { top_k: 900, scale: 0.1, ..ALL },
    Wish { top_p: 1e-6, ..ALL },
    Wish { top_p: 0.5, ..ALL },
    Wish { top_p: 0.99, scale: 0.5, ..ALL },
    // Natural logarithms of 0.05 and of 1.
    Wish { min_log: -2.995_732_3, ..ALL },
    Wish { min_log: 0.0, ..ALL },
    ADJUSTED,
    Wish { top_p: 0.9, num_logprobs: 21, ..ADJUSTED },
    Wish { top_k: 40, top_p: 0.95, min_log: -4.605_17, scale: 1.0 / 0.8, ..ADJUSTED },
    Wish { top_k: 3, top_p: 0.999, scale: 0.3, ..ALL },
];

/// What the logits look like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Logits {
    /// A few great ones among many small ones, as a model's are.
    Peaked,
    /// Whole numbers from -3 to 3, so that every cut falls among equals.
    Ties,
    /// One token has all probability.
    One,
    /// All but some are minus infinity.
    Masked,
}

/// Rows of other wishes: a single token, less than a slice, slices and a part of one, the true width.
const SHAPES: &[(Logits, usize, usize)] = &[
    (Logits::Peaked, 1, 1),
    (Logits::Peaked, 700, 700),
    (Logits::Peaked, 5000, 4111),
    (Logits::Ties, 5000, 4111),
    (Logits::One, 5000, 4111),
    (Logits::Masked, 5000, 4111),
    (Logits::Ties, 30, 30),
    (Logits::Peaked, 201_088, 200_019),
];

pub(super) fn cases() -> Vec<Case> {
    let shape = |&(kind, width, vocabulary): &(Logits, usize, usize)| {
        let name = format!("sample {kind:?} {width} of {vocabulary}");
        Case::new(name, move |device| wishes(device, kind, width, vocabulary))
    };
    let others = [
        Case::new("sample without an answer".to_owned(), without_answer),
        Case::new("sample alone and among others".to_owned(), alone_and_among_others),
        Case::new("sample 2048 draws of 5".to_owned(), draws),
    ];
    SHAPES.iter().map(shape).chain(others).chain(masks::cases()).collect()
}

/// Rows and what is wished for them.
struct Rows {
    logits: Vec<f32>,
    width: usize,
    vocabulary: usize,
    wishes: Vec<Wish>,
    adjustments: Vec<Adjustment>,
    /// At least one, each of `mask_words(vocabulary)`.
    masks: Vec<u32>,
}

/// What was chosen for a row.
#[derive(Debug, PartialEq)]
struct Answer {
    token: u32,
    logprobs: Vec<TokenLogprob>,
}

impl Rows {
    /// One row for each of `wishes`. What is beyond the vocabulary would win.
    fn new(kind: Logits, width: usize, vocabulary: usize, wishes: &[Wish]) -> Self {
        let mut random = fastrand::Rng::with_seed(3);
        let mut logits = random_f32(1, wishes.len() * width, 3.0);
        let (mut all, mut adjustments) = (Vec::new(), Vec::new());
        for (row, wish) in logits.chunks_mut(width).zip(wishes) {
            row[vocabulary..].fill(1e9);
            let row = &mut row[..vocabulary];
            match kind {
                Logits::Peaked => {
                    // About as many as a person would find in such a list.
                    (0..40).for_each(|_| row[random.usize(0..vocabulary)] += 12.0 * random.f32());
                }
                Logits::Ties => row.iter_mut().for_each(|logit| *logit = logit.round()),
                Logits::One => row[random.usize(0..vocabulary)] = 1000.0,
                Logits::Masked => row.iter_mut().enumerate().for_each(|(token, logit)| {
                    if token % 97 != 5 {
                        *logit = f32::NEG_INFINITY;
                    }
                }),
            }
            let first_adjustment = adjustments.len() as u32;
            if wish.num_adjustments > 0 {
                adjustments.extend(adjust(row, wish.num_adjustments as usize, &mut random));
            }
            let num_adjustments = adjustments.len() as u32 - first_adjustment;
            let random = random.u64(..);
            all.push(Wish { random, first_adjustment, num_adjustments, ..*wish });
        }
        if adjustments.is_empty() {
            adjustments.push(Adjustment::default());
        }
        let masks = vec![0; mask_words(vocabulary)];
        Self { logits, width, vocabulary, wishes: all, adjustments, masks }
    }

    fn run(&self, device: &Device, truncates: bool) -> Result<Vec<Answer>> {
        let rows = self.wishes.len();
        let logits = device.alloc_from(&self.logits)?;
        let wishes = device.alloc_from(&self.wishes)?;
        let adjustments = device.alloc_from(&self.adjustments)?;
        let masks = device.alloc_from(&self.masks)?;
        let tokens = device.alloc(rows * 4)?;
        let logprobs =
            device.alloc_from(&vec![TokenLogprob::default(); rows * (1 + MAX_ALTERNATIVES)])?;
        let slices = device.alloc(slices_bytes(rows, self.vocabulary))?;
        let cuts = device.alloc(cuts_bytes(rows))?;
        let args = Sample {
            logits: logits.whole(),
            wishes: wishes.whole(),
            adjustments: adjustments.whole(),
            masks: masks.whole(),
            tokens: tokens.whole(),
            logprobs: logprobs.whole(),
            slices: slices.whole(),
            cuts: cuts.whole(),
            rows,
            width: self.width,
            vocabulary: self.vocabulary,
            truncates,
        };
        sample(device, &args)?;
        let tokens = device.read::<u32>(tokens.whole())?;
        let logprobs = device.read::<TokenLogprob>(logprobs.whole())?;
        let rows = tokens.into_iter().zip(logprobs.chunks(1 + MAX_ALTERNATIVES)).zip(&self.wishes);
        let answer = |((token, logprobs), wish): ((u32, &[TokenLogprob]), &Wish)| Answer {
            token,
            logprobs: logprobs[..wish.num_logprobs as usize].to_vec(),
        };
        Ok(rows.map(answer).collect())
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.logits[index * self.width..][..self.vocabulary]
    }

    /// The mask that a wish names.
    fn mask(&self, wish: &Wish) -> Option<&[u32]> {
        let row = (wish.mask as usize).checked_sub(1)?;
        self.masks.chunks(mask_words(self.vocabulary)).nth(row)
    }

    /// The greatest error of all rows, cut or not.
    fn check(&self, device: &Device) -> Result<Report> {
        let answers = self.run(device, true)?;
        let errors = answers.iter().enumerate().map(|(index, answer)| self.error(index, answer));
        Ok(Report { max_error: errors.fold(0.0, f64::max), tolerance: TOLERANCE })
    }

    /// How far an answer is from right.
    fn error(&self, index: usize, answer: &Answer) -> f64 {
        let (raw, wish) = (self.row(index), &self.wishes[index]);
        if answer.token as usize >= self.vocabulary {
            return f64::INFINITY;
        }
        let range = wish.first_adjustment as usize..;
        let adjustments = &self.adjustments[range][..wish.num_adjustments as usize];
        let adjusted = adjusted(raw, wish, adjustments, self.mask(wish));
        let choice = match wish.choice {
            Wish::GREEDY => {
                let is_best = order(&adjusted).first() == Some(&(answer.token as usize));
                if is_best { 0.0 } else { f64::INFINITY }
            }
            _ => draw_error(&adjusted, wish, answer.token as usize),
        };
        choice.max(logprobs_error(raw, wish, answer))
    }
}

/// Adjustments of the greatest logit, so that it loses, and of tokens all over the row, each once and in order.
fn adjust(row: &[f32], most: usize, random: &mut fastrand::Rng) -> Vec<Adjustment> {
    let best = order(row)[0] as u32;
    let mut tokens: Vec<u32> = (1..most).map(|_| random.u32(0..row.len() as u32)).collect();
    tokens.push(best);
    tokens.sort_unstable();
    tokens.dedup();
    let adjustment = |token| Adjustment {
        token,
        num_generated: random.u32(0..3),
        is_repeated: u32::from(random.bool()),
        bias: if token == best { -30.0 } else { random.f32() * 4.0 - 2.0 },
    };
    tokens.into_iter().map(adjustment).collect()
}

/// Every wish on one kind of logits; the error is the greatest of all rows.
fn wishes(device: &Device, kind: Logits, width: usize, vocabulary: usize) -> Result<Report> {
    Rows::new(kind, width, vocabulary, WISHES).check(device)
}

/// Rows that must answer no token; the error is the number of those that answer one.
fn without_answer(device: &Device) -> Result<Report> {
    let cut = Wish { top_k: 5, top_p: 0.9, min_log: -3.0, num_logprobs: 3, ..ALL };
    let far = Wish { first_adjustment: 1, num_adjustments: u32::MAX, ..ALL };
    let wishes = [Wish::default(), GREEDY, ALL, cut, GREEDY, cut, ALL, cut, far];
    let mut rows = Rows::new(
        Logits::Peaked,
        5000,
        4111,
        &wishes.map(|wish| Wish { num_adjustments: 0, ..wish }),
    );
    rows.wishes[8].num_adjustments = far.num_adjustments;
    rows.wishes[8].first_adjustment = far.first_adjustment;
    for row in 1..4 {
        rows.logits[row * 5000 + 4000] = f32::NAN;
    }
    for row in 4..6 {
        rows.logits[row * 5000 + 10] = f32::INFINITY;
    }
    rows.logits[6 * 5000..8 * 5000].fill(f32::NEG_INFINITY);
    let mut num_wrong = rows.run(device, true)?.iter().filter(|a| a.token != NO_TOKEN).count();
    // What would be cut is left out where nothing is cut.
    let rows = Rows::new(Logits::Peaked, 5000, 4111, &[cut, GREEDY]);
    let answers = rows.run(device, false)?;
    num_wrong +=
        usize::from(answers[0].token != NO_TOKEN) + usize::from(answers[1].token == NO_TOKEN);
    Ok(Report { max_error: num_wrong as f64, tolerance: 0.0 })
}

/// A row's answer is the same whatever rows are beside it, and whether others are cut; the error counts those that are not.
fn alone_and_among_others(device: &Device) -> Result<Report> {
    let mut rows = Rows::new(Logits::Peaked, 5000, 4111, WISHES);
    // Whether a row is masked must not matter to the next one either.
    masks::add(&mut rows, &[None, Some(Allowed::EverySecond)]);
    let together = rows.run(device, true)?;
    let mut num_wrong = 0;
    for (index, answer) in together.iter().enumerate() {
        let wish = rows.wishes[index];
        let is_cut = wish.top_k != 0 || wish.top_p < 1.0 || wish.min_log > f32::NEG_INFINITY;
        let alone = Rows {
            logits: rows.logits[index * rows.width..][..rows.width].to_vec(),
            wishes: vec![wish],
            adjustments: rows.adjustments.clone(),
            masks: rows.masks.clone(),
            ..rows
        };
        num_wrong += usize::from(alone.run(device, is_cut)?[0] != *answer);
    }
    Ok(Report { max_error: num_wrong as f64, tolerance: 0.0 })
}

/// Shares of many draws against probabilities; the error is in standard deviations.
fn draws(device: &Device) -> Result<Report> {
    const NUM_DRAWS: usize = 2048;
    let logits = [0.0, 1.0, -1.0, 2.0, 0.5f32];
    let mut random = fastrand::Rng::with_seed(4);
    let wish = |_| Wish { random: random.u64(..), ..ALL };
    let rows = Rows {
        logits: logits.repeat(NUM_DRAWS),
        width: 5,
        vocabulary: 5,
        wishes: (0..NUM_DRAWS).map(wish).collect(),
        adjustments: vec![Adjustment::default()],
        masks: vec![0],
    };
    let answers = rows.run(device, false)?;
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let mut max = 0.0f64;
    for (token, logit) in logits.into_iter().enumerate() {
        let expected = f64::from(logit).exp() / total;
        let num = answers.iter().filter(|answer| answer.token as usize == token).count() as f64;
        let deviation = (expected * (1.0 - expected) / NUM_DRAWS as f64).sqrt();
        max = max.max((num / NUM_DRAWS as f64 - expected).abs() / deviation);
    }
    Ok(Report { max_error: max, tolerance: 4.0 })
}
