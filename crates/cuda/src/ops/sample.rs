//! The choice of the token that follows a row.

use bytemuck::{Pod, Zeroable};

use super::Arguments;
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// What [`sample`] answers for a row that it does not choose for: one that is left out, holds a NaN, or offers no finite
/// greatest logit.
pub const NO_TOKEN: u32 = u32::MAX;
/// Most alternatives whose log-probabilities are reported with a token.
pub const MAX_ALTERNATIVES: usize = 20;
/// Logits of a slice, which one block looks at.
const SLICE_LEN: usize = 2048;
/// Slices of a row, one for each thread of the block that puts them together.
const MAX_SLICES: usize = 256;
const THREADS: u32 = 256;
/// Bytes of what the kernels know of a slice, and of where a row is cut; `common/sampling.cuh` has the fields.
const SLICE_BYTES: usize = 184;
const CUT_BYTES: usize = 32_800;
/// Runs of `sample_narrow`, each over 11 bits of the logits at most.
const NUM_PASSES: u32 = 3;

/// Most logits of a row that [`sample`] can take.
pub const MAX_VOCABULARY: usize = SLICE_LEN * MAX_SLICES;

/// How one row's token is chosen. The default leaves the row out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Wish {
    /// The place of a draw, as a share of 2^64.
    pub random: u64,
    /// Where its adjustments begin.
    pub first_adjustment: u32,
    /// How many it has, each for another token.
    pub num_adjustments: u32,
    /// [`Wish::LEFT_OUT`], [`Wish::GREEDY`] or [`Wish::DRAW`].
    pub choice: u32,
    /// Keeps this many of the greatest logits, those of lowest index among equals; 0 keeps all. For a draw, as is what
    /// follows up to `min_log`.
    pub top_k: u32,
    /// One over the temperature, above 0.
    pub scale: f32,
    /// Keeps the shortest head of the falling order that has this share of all probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens whose probability is at least this share of the best one's, as a logarithm; `-inf` keeps all.
    pub min_log: f32,
    /// Divides positive and multiplies negative logits of adjustments that say so.
    pub repetition: f32,
    /// Subtracted for each time a token was generated.
    pub frequency: f32,
    /// Subtracted once if a token was generated.
    pub presence: f32,
    /// 0 for no log-probabilities, else one more than the wanted alternatives.
    pub num_logprobs: u32,
    /// 0 if all tokens are allowed, else one more than the row of the masks that says which are.
    pub mask: u32,
}

impl Wish {
    /// The row is not looked at; its answer is [`NO_TOKEN`].
    pub const LEFT_OUT: u32 = 0;
    /// The greatest logit, the lowest index among equals.
    pub const GREEDY: u32 = 1;
    /// A draw from the probabilities.
    pub const DRAW: u32 = 2;
}

/// What changes one token's logit before the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Adjustment {
    /// The token.
    pub token: u32,
    /// How often it was generated, for frequency and presence.
    pub num_generated: u32,
    /// 1 if the repetition penalty counts it.
    pub is_repeated: u32,
    /// Added last.
    pub bias: f32,
}

/// A token and the logarithm of its probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Of its probability under the logits as they are, before any wish.
    pub logprob: f32,
}

/// Arguments of [`sample`].
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// `[rows, width]` float32.
    pub logits: BufferSlice<'a>,
    /// `[rows]` of [`Wish`].
    pub wishes: BufferSlice<'a>,
    /// Any number of [`Adjustment`].
    pub adjustments: BufferSlice<'a>,
    /// `[any, mask_words(vocabulary)]` u32: a bit a token, lowest first, set if it may be chosen.
    pub masks: BufferSlice<'a>,
    /// `[rows]` u32.
    pub tokens: BufferSlice<'a>,
    /// `[rows, 1 + MAX_ALTERNATIVES]` of [`TokenLogprob`]: the chosen token, then the best ones. Only what a wish asks for is
    /// written.
    pub logprobs: BufferSlice<'a>,
    /// Scratch memory of [`slices_bytes`].
    pub slices: BufferSlice<'a>,
    /// Scratch memory of [`cuts_bytes`].
    pub cuts: BufferSlice<'a>,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// How many of them may be chosen, from the first on.
    pub vocabulary: usize,
    /// Whether wishes may keep less than all tokens; without, rows that do are left out.
    pub truncates: bool,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    logits: DevicePtr,
    wishes: DevicePtr,
    adjustments: DevicePtr,
    masks: DevicePtr,
    tokens: DevicePtr,
    logprobs: DevicePtr,
    slices: DevicePtr,
    cuts: DevicePtr,
    width: u32,
    vocabulary: u32,
    num_slices: u32,
    num_adjustments: u32,
    num_masks: u32,
    mask_len: u32,
    truncates: u32,
    pass: u32,
}

/// Bytes that [`sample`] needs for what it knows of the slices of so many rows.
pub fn slices_bytes(rows: usize, vocabulary: usize) -> usize {
    rows * vocabulary.div_ceil(SLICE_LEN) * SLICE_BYTES
}

/// Words of 32 tokens that make a mask of a vocabulary.
pub fn mask_words(vocabulary: usize) -> usize {
    vocabulary.div_ceil(u32::BITS as usize)
}

/// Bytes of so many masks.
pub fn masks_bytes(num_masks: usize, vocabulary: usize) -> usize {
    num_masks * mask_words(vocabulary) * size_of::<u32>()
}

/// Bytes that [`sample`] needs to cut so many rows.
pub fn cuts_bytes(rows: usize) -> usize {
    rows * CUT_BYTES
}

/// Chooses the token of each row as its wish says: penalties and bias, then the greatest logit or a draw, of the tokens that
/// its mask allows.
///
/// A row's answer depends on nothing but its logits, wish, adjustments and mask. What a wish says of adjustments and masks
/// is checked by the kernels: a row that names others than there are is left out.
pub fn sample(device: &Device, args: &Sample<'_>) -> Result<()> {
    let check = Arguments { device, op: "sample" };
    let Sample { rows, width, vocabulary, .. } = *args;
    if vocabulary > width.min(MAX_VOCABULARY) {
        let most = width.min(MAX_VOCABULARY);
        return check.refuse("vocabulary", format!("is {vocabulary}, over {most}"));
    }
    let num_slices = vocabulary.div_ceil(SLICE_LEN);
    let num_adjustments = args.adjustments.len() / size_of::<Adjustment>();
    let logprobs = [rows, 1 + MAX_ALTERNATIVES];
    let mask_len = mask_words(vocabulary);
    let num_masks = args.masks.len() / masks_bytes(1, vocabulary).max(1);
    let params = Params {
        logits: check.tensor("logits", args.logits, &[rows, width], size_of::<f32>())?,
        wishes: check.tensor("wishes", args.wishes, &[rows], size_of::<Wish>())?,
        adjustments: check.tensor(
            "adjustments",
            args.adjustments,
            &[num_adjustments],
            size_of::<Adjustment>(),
        )?,
        masks: check.tensor("masks", args.masks, &[num_masks, mask_len], size_of::<u32>())?,
        tokens: check.tensor("tokens", args.tokens, &[rows], size_of::<u32>())?,
        logprobs: check.tensor("logprobs", args.logprobs, &logprobs, size_of::<TokenLogprob>())?,
        slices: check.tensor("slices", args.slices, &[rows, num_slices], SLICE_BYTES)?,
        cuts: check.tensor("cuts", args.cuts, &[rows], CUT_BYTES)?,
        width: check.count("width", width)?,
        vocabulary: check.count("vocabulary", vocabulary)?,
        num_slices: check.count("vocabulary", num_slices)?,
        num_adjustments: check.count("adjustments", num_adjustments)?,
        num_masks: check.count("masks", num_masks)?,
        mask_len: check.count("vocabulary", mask_len)?,
        truncates: u32::from(args.truncates),
        pass: 0,
    };
    let rows = check.count("rows", rows)?;
    let slices =
        Grid { grid: [params.num_slices, rows, 1], block: [THREADS, 1, 1], shared_bytes: 0 };
    let row = Grid { grid: [rows, 1, 1], ..slices };
    let launch = |kernel, grid: &Grid, params: &Params| {
        // SAFETY: every tensor has the length that the counts say, and the kernels check what wishes say.
        unsafe { device.launch(kernel, grid, params) }
    };
    launch("sample_scan", &slices, &params)?;
    if args.truncates {
        for pass in 0..NUM_PASSES {
            launch("sample_narrow", &slices, &Params { pass, ..params })?;
        }
        launch("sample_weigh", &slices, &params)?;
    }
    launch("sample_choose", &row, &params)
}
