//! Rotary position embedding with YaRN: rotates halves of queries and keys by their position.

use crate::config::Rope;

/// Inverse frequencies, one a pair of dimensions.
pub(crate) struct Rotary {
    frequencies: Vec<f32>,
    attention_factor: f64,
}

/// Cosines and sines of the rows of one step.
pub(crate) struct Rotations {
    half: usize,
    /// A cosine and a sine for each pair of dimensions, row after row.
    values: Vec<(f32, f32)>,
}

impl Rotary {
    pub(crate) fn new(rope: &Rope, head_dim: usize) -> Self {
        Self { frequencies: frequencies(rope, head_dim), attention_factor: rope.attention_factor }
    }

    /// The rotations at these positions. Angles are float32 products, as in every other implementation: at far
    /// positions that choice is visible, and exact angles would be the ones that differ.
    pub(crate) fn at(&self, positions: &[u32]) -> Rotations {
        let rotation = |position: u32, frequency: f32| {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            ((cos * self.attention_factor) as f32, (sin * self.attention_factor) as f32)
        };
        let values = positions
            .iter()
            .flat_map(|&position| self.frequencies.iter().map(move |f| rotation(position, *f)))
            .collect();
        Rotations { half: self.frequencies.len(), values }
    }
}

impl Rotations {
    /// A cosine and a sine for each pair of dimensions, row after row.
    pub(crate) fn values(&self) -> &[(f32, f32)] {
        &self.values
    }

    /// Rotates rows of heads in place. All heads of a row lie side by side.
    pub(crate) fn apply(&self, heads: &mut [f32]) {
        let num_rows = self.values.len() / self.half;
        let rows = heads.chunks_exact_mut(heads.len() / num_rows);
        for (row, rotations) in rows.zip(self.values.chunks_exact(self.half)) {
            for head in row.chunks_exact_mut(2 * self.half) {
                let (low, high) = head.split_at_mut(self.half);
                for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(rotations) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

/// `r / (s f) + (1 - r) / f` with the ramp `r` running from 0 at `beta_fast` rotations over the original context to 1
/// at `beta_slow` (YaRN, section 3.2).
fn frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let (dim, context) = (head_dim as f64, f64::from(rope.original_context_len));
    let pair_with = |rotations: f64| {
        dim * (context / (rotations * std::f64::consts::TAU)).ln() / (2.0 * rope.theta.ln())
    };
    let (mut low, mut high) = (pair_with(rope.beta_fast), pair_with(rope.beta_slow));
    if rope.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    // Equal bounds would divide by zero; transformers steps aside by the same amount.
    let width = if high == low { 0.001 } else { high - low };
    (0..head_dim / 2)
        .map(|pair| {
            let frequency = rope.theta.powf(2.0 * pair as f64 / dim).recip();
            let ramp = ((pair as f64 - low) / width).clamp(0.0, 1.0);
            (ramp * frequency / rope.factor + (1.0 - ramp) * frequency) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROPE: Rope = Rope {
        theta: 150_000.0,
        factor: 32.0,
        original_context_len: 4096,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: false,
        attention_factor: 1.346_573_590_279_972_7,
    };

    #[test]
    fn frequencies_are_those_of_the_published_model() {
        let ours = frequencies(&ROPE, 64);
        let published = [
            (0, 1.0),
            (1, 6.890443059e-1),
            (8, 5.081327482e-2),
            (9, 3.170569618e-2),
            (12, 6.794959490e-3),
            (16, 4.564839192e-4),
            (17, 1.293187012e-4),
            (18, 3.830881237e-5),
            (31, 3.023511428e-7),
        ];
        for (pair, expected) in published {
            assert!((ours[pair] / expected as f32 - 1.0).abs() < 1e-6, "{pair}: {}", ours[pair]);
        }
    }

    #[test]
    fn truncation_changes_the_ramp() {
        let truncated = frequencies(&Rope { truncate: true, ..ROPE }, 64);
        assert_ne!(truncated[9], frequencies(&ROPE, 64)[9]);
        assert_eq!(truncated[18], ROPE.theta.powf(-36.0 / 64.0) as f32 / 32.0);
    }

    #[test]
    fn halves_rotate_against_each_other() {
        let rotary = Rotary { frequencies: vec![1.0, 0.5], attention_factor: 1.0 };
        let mut heads = [0.0; 16];
        // Row 1, head 1, first pair.
        heads[12] = 1.0;
        rotary.at(&[0, 2]).apply(&mut heads);
        assert!((heads[12] - 2f32.cos()).abs() < 1e-6 && (heads[14] - 2f32.sin()).abs() < 1e-6);
        assert_eq!(heads.iter().filter(|value| **value != 0.0).count(), 2);
    }
}
