//! Rows whose choice is among the tokens of a mask.

use super::reference::{adjusted, allows, order};
use super::{ALL, GREEDY, Logits, Rows, WISHES};
use crate::check::{Case, Report};
use crate::ops::{NO_TOKEN, Wish, mask_words};
use crate::{Device, Result};

/// The tokens that a mask allows. None has the one that would be chosen first without it, where there are others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Allowed {
    One,
    EverySecond,
    /// Some of the first word and some of the last one, which may be part of a word.
    Ends,
}

const EACH: &[Option<Allowed>] =
    &[Some(Allowed::One), Some(Allowed::EverySecond), Some(Allowed::Ends)];

/// Masks of one kind in all rows, and of all kinds beside rows without: less than a word, a slice and slices with a part of
/// a word, the true width.
const SHAPES: &[(Logits, usize, usize, &[Option<Allowed>])] = &[
    (Logits::Ties, 30, 30, EACH),
    (Logits::Peaked, 700, 700, EACH),
    (Logits::Peaked, 5000, 4111, &[Some(Allowed::One)]),
    (Logits::Peaked, 5000, 4111, &[Some(Allowed::EverySecond)]),
    (Logits::Peaked, 5000, 4111, &[Some(Allowed::Ends)]),
    (Logits::Ties, 5000, 4111, &[Some(Allowed::EverySecond)]),
    (Logits::Masked, 5000, 4111, &[Some(Allowed::EverySecond), None]),
    (
        Logits::Peaked,
        201_088,
        200_019,
        &[Some(Allowed::EverySecond), None, Some(Allowed::One), Some(Allowed::Ends), None],
    ),
];

pub(super) fn cases() -> impl Iterator<Item = Case> {
    let shape = |&(kind, width, vocabulary, allowed): &(_, usize, usize, &'static [_])| {
        let name = format!("sample {kind:?} {width} of {vocabulary} masked {}", names(allowed));
        Case::new(name, move |device| {
            let mut rows = Rows::new(kind, width, vocabulary, WISHES);
            add(&mut rows, allowed);
            rows.check(device)
        })
    };
    let without = Case::new("sample masked without an answer".to_owned(), without_answer);
    SHAPES.iter().map(shape).chain([without])
}

fn names(allowed: &[Option<Allowed>]) -> String {
    let name = |kind: &Option<Allowed>| kind.map_or("not".to_owned(), |kind| format!("{kind:?}"));
    allowed.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Gives the rows masks of these kinds in turn.
pub(super) fn add(rows: &mut Rows, allowed: &[Option<Allowed>]) {
    let mut masks = Vec::new();
    for (index, kind) in allowed.iter().cycle().take(rows.wishes.len()).enumerate() {
        let Some(kind) = kind else { continue };
        let wish = rows.wishes[index];
        let adjustments = &rows.adjustments[wish.first_adjustment as usize..];
        let adjustments = &adjustments[..wish.num_adjustments as usize];
        masks.extend(mask(*kind, &adjusted(rows.row(index), &wish, adjustments, None)));
        rows.wishes[index].mask = (masks.len() / mask_words(rows.vocabulary)) as u32;
    }
    rows.masks = masks;
}

fn mask(kind: Allowed, logits: &[f32]) -> Vec<u32> {
    let order = order(logits);
    let (best, len) = (order[0], logits.len());
    let other = order[len / 2];
    let is_finite = |token: usize| logits[token] > f32::NEG_INFINITY;
    let allows = |token: usize| match kind {
        Allowed::One => token == other,
        Allowed::EverySecond => token % 2 != best % 2,
        Allowed::Ends => (token < 32 || token >= (len - 1) / 32 * 32) && token % 3 != 1,
    };
    let tokens = (0..len).filter(|token| *token != best && is_finite(*token) && allows(*token));
    words(tokens, len)
}

fn words(tokens: impl IntoIterator<Item = usize>, vocabulary: usize) -> Vec<u32> {
    let mut words = vec![0; mask_words(vocabulary)];
    tokens.into_iter().for_each(|token| words[token / 32] |= 1 << (token % 32));
    words
}

/// Rows whose masks leave nothing to choose, or that are errors whatever their masks leave out; the error is the number of
/// those that answer a token, and of rows beside them that answer none or one that their mask does not have.
fn without_answer(device: &Device) -> Result<Report> {
    const WIDTH: usize = 5000;
    const VOCABULARY: usize = 4111;
    let cut = Wish { top_k: 5, top_p: 0.9, min_log: -3.0, num_logprobs: 3, ..ALL };
    let choices = [GREEDY, ALL, cut];
    // Nothing; what is minus infinity; all but what is infinite or no number; a mask that is not there; an ordinary one.
    let wishes: Vec<Wish> = [1, 2, 3, 3, 5, 4]
        .into_iter()
        .flat_map(|mask| choices.map(|choice| Wish { mask, ..choice }))
        .collect();
    let mut rows = Rows::new(Logits::Peaked, WIDTH, VOCABULARY, &wishes);
    rows.masks = [
        words([], VOCABULARY),
        words([5, 4110], VOCABULARY),
        words((0..VOCABULARY).filter(|token| *token != 3000), VOCABULARY),
        words([17, 4110], VOCABULARY),
    ]
    .concat();
    let num_choices = choices.len();
    for (index, row) in rows.logits.chunks_mut(WIDTH).enumerate() {
        match index / num_choices {
            1 => [5, 4110].into_iter().for_each(|token| row[token] = f32::NEG_INFINITY),
            2 => row[3000] = f32::NAN,
            3 => row[3000] = f32::INFINITY,
            _ => {}
        }
    }
    let ordinary = words([17, 4110], VOCABULARY);
    let is_wrong = |(index, token): &(usize, u32)| match index / num_choices {
        5 => *token == NO_TOKEN || !allows(&ordinary, *token as usize),
        _ => *token != NO_TOKEN,
    };
    let answers = rows.run(device, true)?;
    let tokens = answers.iter().map(|answer| answer.token).enumerate();
    Ok(Report { max_error: tokens.filter(is_wrong).count() as f64, tolerance: 0.0 })
}
