//! One pair of thin matrices, in the order in which the loop that applies them reads.

use crate::simd::MAX_LANES;

/// Rows of A that are multiplied together, so that each part of the activations is loaded once for all of them.
pub(crate) const RANKS_TOGETHER: usize = 4;

/// What one product gains: `B (A x)`, the adapter's scale already in B.
pub(crate) struct LowRank {
    rank: usize,
    num_inputs: usize,
    num_outputs: usize,
    /// Rows of A by fours: of each four, the first vector of every row, then the second, and so on. The last four are
    /// filled up with zeros.
    a: Vec<[[f32; MAX_LANES]; RANKS_TOGETHER]>,
    /// Outputs of B by sixteens: of each sixteen, one vector a rank. The last sixteen are filled up with zeros.
    b: Vec<[f32; MAX_LANES]>,
}

/// The pairs of several experts as PEFT packs them: A is `[experts, rank, inputs]`, B is `[outputs, rank, experts]`.
pub(super) struct Packed<'a> {
    pub(super) num_experts: usize,
    pub(super) rank: usize,
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) scale: f32,
}

impl Packed<'_> {
    /// The pair of one expert.
    pub(super) fn expert(&self, expert: usize) -> LowRank {
        let &Self { num_experts, rank, .. } = self;
        let num_ranks = num_experts * rank;
        let (num_inputs, num_outputs) = (self.a.len() / num_ranks, self.b.len() / num_ranks);
        assert_eq!(num_inputs % MAX_LANES, 0, "config.rs checked that widths are multiples of 32");
        let vectors_per_row = num_inputs / MAX_LANES;
        let (a, _) =
            self.a[expert * rank * num_inputs..][..rank * num_inputs].as_chunks::<MAX_LANES>();
        let a_row = |row: usize, index: usize| match row < rank {
            true => a[row * vectors_per_row + index],
            false => [0.0; MAX_LANES],
        };
        let b_value = |output: usize, row: usize| match output < num_outputs {
            true => self.scale * self.b[output * num_ranks + row * num_experts + expert],
            false => 0.0,
        };
        let fours = (0..rank).step_by(RANKS_TOGETHER);
        let sixteens = (0..num_outputs).step_by(MAX_LANES);
        LowRank {
            rank,
            num_inputs,
            num_outputs,
            a: fours
                .flat_map(|first| (0..vectors_per_row).map(move |index| (first, index)))
                .map(|(first, index)| std::array::from_fn(|row| a_row(first + row, index)))
                .collect(),
            b: sixteens
                .flat_map(|first| (0..rank).map(move |row| (first, row)))
                .map(|(first, row)| std::array::from_fn(|lane| b_value(first + lane, row)))
                .collect(),
        }
    }
}

impl LowRank {
    /// Length of what it is applied to, a multiple of [`MAX_LANES`].
    pub(crate) fn num_inputs(&self) -> usize {
        self.num_inputs
    }

    /// Length of what it adds.
    pub(crate) fn num_outputs(&self) -> usize {
        self.num_outputs
    }

    /// Numbers between the two matrices.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// The rows of A by fours, the last ones filled up.
    pub(crate) fn a(&self) -> impl Iterator<Item = &[[[f32; MAX_LANES]; RANKS_TOGETHER]]> {
        self.a.chunks_exact(self.num_inputs / MAX_LANES)
    }

    /// The outputs of B by sixteens, each with one vector a rank.
    pub(crate) fn b(&self) -> impl Iterator<Item = &[[f32; MAX_LANES]]> {
        self.b.chunks_exact(self.rank)
    }

    /// A row of A.
    pub(crate) fn a_row(&self, rank: usize) -> impl Iterator<Item = f32> {
        let vectors_per_row = self.num_inputs / MAX_LANES;
        let four = &self.a[rank / RANKS_TOGETHER * vectors_per_row..][..vectors_per_row];
        four.iter().flat_map(move |rows| rows[rank % RANKS_TOGETHER])
    }

    /// A row of B.
    pub(crate) fn b_row(&self, output: usize) -> impl Iterator<Item = f32> {
        let sixteen = &self.b[output / MAX_LANES * self.rank..][..self.rank];
        sixteen.iter().map(move |vector| vector[output % MAX_LANES])
    }

    /// Multiplications for one row.
    pub(crate) fn num_products(&self) -> usize {
        self.rank * (self.num_inputs + self.num_outputs)
    }

    /// Bytes it takes.
    pub(super) fn num_bytes(&self) -> u64 {
        (size_of_val(&*self.a) + size_of_val(&*self.b)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Simd;

    /// Two experts of rank 3, 16 inputs, 17 outputs: values that say where they were.
    #[test]
    fn an_expert_gets_its_own_rows_and_columns() {
        let (num_experts, rank, num_inputs, num_outputs) = (2, 3, 16, 17);
        let a: Vec<f32> = (0..num_experts * rank * num_inputs).map(|at| at as f32).collect();
        let b: Vec<f32> = (0..num_outputs * rank * num_experts).map(|at| at as f32).collect();
        let packed = Packed { num_experts, rank, a: &a, b: &b, scale: 2.0 };
        let second = packed.expert(1);
        assert_eq!((second.rank(), second.num_inputs(), second.num_outputs()), (3, 16, 17));
        let fours: Vec<_> = second.a().collect();
        assert_eq!(fours.len(), 1);
        // Rows 3, 4 and 5 of A, then zeros.
        assert_eq!(fours[0][0].map(|row| row[5]), [53.0, 69.0, 85.0, 0.0]);
        let sixteens: Vec<_> = second.b().collect();
        assert_eq!((sixteens.len(), sixteens[0].len()), (2, 3));
        // Row `o` of B holds ranks 0, 1, 2 of both experts in turn: 6 o + 2 r + 1 is this expert's.
        assert_eq!(sixteens[0][2][4], 2.0 * (6.0 * 4.0 + 2.0 * 2.0 + 1.0));
        assert_eq!(sixteens[1][0][..2], [2.0 * (6.0 * 16.0 + 1.0), 0.0]);
        // Taken apart again.
        let row: Vec<f32> = second.a_row(2).collect();
        assert_eq!(row, a[5 * 16..]);
        let row: Vec<f32> = second.b_row(16).collect();
        assert_eq!(row, [0.0, 1.0, 2.0].map(|rank| 2.0 * (6.0 * 16.0 + 2.0 * rank + 1.0)));
    }

    /// Numbers between -1 and 1 with no pattern.
    fn noise(len: usize, mut state: u64) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// Bound of the relative error: sums of 2,880 products in float32.
    const TOLERANCE: f64 = 1e-5;

    #[test]
    fn every_instruction_set_adds_what_float64_does() {
        for (rank, num_inputs, num_outputs) in
            [(1, 32, 8), (3, 64, 64), (4, 96, 17), (9, 2880, 5760), (16, 32, 32)]
        {
            let (a, b) = (noise(rank * num_inputs, 1), noise(num_outputs * rank, 2));
            let (x, y) = (noise(num_inputs, 3), noise(num_outputs, 4));
            let change = Packed { num_experts: 1, rank, a: &a, b: &b, scale: 0.5 }.expert(0);
            let inner: Vec<f64> = a.chunks(num_inputs).map(|row| dot(row, &x)).collect();
            let expected = |output: usize| {
                let row = &b[output * rank..][..rank];
                let sum: f64 = row.iter().zip(&inner).map(|(b, inner)| f64::from(*b) * inner).sum();
                f64::from(y[output]) + 0.5 * sum
            };
            for simd in Simd::supported() {
                let mut ours = y.clone();
                simd.add_low_rank(&change, &x, &mut ours);
                let expected = (0..num_outputs).map(expected);
                let (mut error, mut norm) = (0.0, 0.0);
                for (ours, expected) in ours.iter().zip(expected) {
                    error += (f64::from(*ours) - expected).powi(2);
                    norm += expected.powi(2);
                }
                let error = (error / norm).sqrt();
                assert!(error <= TOLERANCE, "{simd:?} {rank} {num_outputs}: {error:e}");
            }
        }
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }
}
