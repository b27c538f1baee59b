//! The vector instructions the kernels are written with: sixteen lanes of `f32` or `i32`, whatever the processor.
//!
//! A kernel is written once, generic over [`Simd`], and runs as AVX-512 (with VNNI), AVX2 (with FMA and F16C) or plain
//! Rust. [`Isa::detect`] picks the widest the processor has.
//!
//! Invariants:
//! - A value of an instruction-set type is proof that the processor has those instructions: it can be made only by
//!   detection. That is why the methods of [`Simd`] are safe.
//! - Every lane of a result depends on the same lane of the operands only, except in reductions, whose order is fixed.
//!   So the result for one row or token never depends on which others share a register tile with it.
//!
//! Kernels handle vectors in plain loops and `#[inline(always)]` functions only. A closure given to `map` or `fold` is
//! compiled on its own, without the instructions, and each of its vector operations becomes a call.
//!
//! Deliberately not here: anything that knows a tensor's layout.

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Lanes of every vector.
pub(crate) const LANES: usize = 16;

/// One cache line of packed weights: sixteen rows by four codes, or sixteen `f32`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line<T: Copy, const N: usize>(pub(crate) [T; N]);

impl<T: Copy, const N: usize> Line<T, N> {
    /// Lines as the arrays they consist of.
    #[inline(always)]
    pub(crate) fn plain(lines: &[Self]) -> &[[T; N]] {
        const { assert!(size_of::<Self>() == size_of::<[T; N]>(), "padded lines are not arrays") };
        // SAFETY: a line is laid out as its only field, has the same size, and is aligned more strictly.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len()) }
    }
}

/// Sixteen rows by four 8-bit codes, or by eight 4-bit codes.
pub(crate) type CodeLine = Line<u8, 64>;

/// The operations of one instruction set.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Sixteen `f32`.
    type F: Copy;
    /// Sixteen `i32`.
    type I: Copy;
    /// Sixteen groups of four unsigned bytes.
    type C: Copy;

    /// Tokens in a register tile of a matrix product, at most [`MAX_TILE`].
    const TILE: usize;
    /// Query rows in a register tile of attention, at most [`MAX_TILE`].
    const QUERY_ROWS: usize;

    /// Runs `kernel` compiled for this instruction set.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn load_f16(self, x: &[f16; LANES]) -> Self::F;
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F;
    fn store(self, x: Self::F, to: &mut [f32; LANES]);
    /// To the nearest f16, ties to even.
    fn to_f16(self, x: Self::F) -> [f16; LANES];
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger of each pair; `b` where one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair; `b` where one is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`, with one rounding where the processor can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest whole number, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a·2ⁿ` for whole `n` in -126..=127.
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F;
    /// Lanes of `a` whose bit is set in `mask`, lowest bit first, and `fill` in the others.
    fn select(self, a: Self::F, mask: u16, fill: f32) -> Self::F;
    /// Whether any lane of `a` is larger than the same of `b`.
    fn any_greater(self, a: Self::F, b: Self::F) -> bool;
    /// Sum of the lanes, in a fixed order.
    fn sum(self, a: Self::F) -> f32;
    /// Largest of the lanes.
    fn maximum(self, a: Self::F) -> f32;
    /// Lanes, which must be whole numbers in -128..=127, as bytes.
    fn to_i8(self, a: Self::F) -> [i8; LANES];

    /// Asks for the cache line that `x` starts in, which will be read soon.
    #[inline(always)]
    fn prefetch<T>(self, _x: *const T) {}

    fn zero(self) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::F;
    /// Sixteen rows by four 8-bit codes.
    fn codes(self, line: &CodeLine) -> Self::C;
    /// Low and high nibbles of sixty-four bytes.
    fn nibbles(self, line: &CodeLine) -> (Self::C, Self::C);
    /// `acc + Σ codes·quad` per row, for codes below 16 and four signed activations.
    fn dot_nibbles(self, acc: Self::I, codes: Self::C, quad: i32) -> Self::I;
    /// The same for codes up to 255.
    fn dot_codes(self, acc: Self::I, codes: Self::C, quad: i32) -> Self::I;

    /// `2ˣ` for `x` clamped to -126..=127, with a relative error below 3·10⁻⁷. Polynomial: Cephes `exp2f`.
    #[inline(always)]
    fn exp2(self, x: Self::F) -> Self::F {
        const COEFFICIENTS: [f32; 5] = [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1];
        let x = self.min(self.max(x, self.splat(-126.0)), self.splat(127.0));
        let n = self.round(x);
        let f = self.sub(x, n);
        let mut p = self.splat(1.535_336_2e-4);
        for c in COEFFICIENTS {
            p = self.fma(p, f, self.splat(c));
        }
        self.scale_by_power(self.fma(p, f, self.splat(1.0)), n)
    }
}

/// A number as it lies in memory; converting it to f32 is exact.
pub(crate) trait Element: Copy {
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F;
    fn widen(self) -> f32;
}

macro_rules! element {
    ($type:ty, $load:ident) => {
        impl Element for $type {
            #[inline(always)]
            fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F {
                s.$load(x)
            }
            #[inline(always)]
            fn widen(self) -> f32 {
                self.into()
            }
        }
    };
}
element!(f32, load);
element!(f16, load_f16);
element!(bf16, load_bf16);

/// Largest register tile.
pub(crate) const MAX_TILE: usize = 12;

/// A computation that can be compiled for any instruction set. Implementations mark `call` `#[inline(always)]`, so
/// that it is compiled inside a function that has the instructions enabled.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it.
    fn call<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set this processor has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable(portable::Portable),
}

impl Isa {
    /// The widest instruction set of this processor.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(avx512) = avx512::Avx512::detect() {
                return Self::Avx512(avx512);
            }
            if let Some(avx2) = avx2::Avx2::detect() {
                return Self::Avx2(avx2);
            }
        }
        Self::Portable(portable::Portable)
    }

    /// Every instruction set of this processor, plain Rust last.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx512::Avx512::detect().map(Self::Avx512));
            all.extend(avx2::Avx2::detect().map(Self::Avx2));
        }
        all.push(Self::Portable(portable::Portable));
        all
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            Self::Portable(_) => "portable",
        }
    }

    /// Tokens in a register tile of a matrix product.
    pub(crate) fn tile(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => avx512::Avx512::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => avx2::Avx2::TILE,
            Self::Portable(_) => portable::Portable::TILE,
        }
    }

    /// Query rows in a register tile of attention.
    pub(crate) fn query_rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => avx512::Avx512::QUERY_ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => avx2::Avx2::QUERY_ROWS,
            Self::Portable(_) => portable::Portable::QUERY_ROWS,
        }
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.run(kernel),
            Self::Portable(simd) => simd.run(kernel),
        }
    }
}

/// Calls a function that is generic over a tile size with a size known only at run time, 1 to [`MAX_TILE`].
macro_rules! with_tile {
    ($size:expr, $tile:ident => $body:expr) => {
        match $size {
            1 => {
                const $tile: usize = 1;
                $body
            }
            2 => {
                const $tile: usize = 2;
                $body
            }
            3 => {
                const $tile: usize = 3;
                $body
            }
            4 => {
                const $tile: usize = 4;
                $body
            }
            5 => {
                const $tile: usize = 5;
                $body
            }
            6 => {
                const $tile: usize = 6;
                $body
            }
            7 => {
                const $tile: usize = 7;
                $body
            }
            8 => {
                const $tile: usize = 8;
                $body
            }
            9 => {
                const $tile: usize = 9;
                $body
            }
            10 => {
                const $tile: usize = 10;
                $body
            }
            11 => {
                const $tile: usize = 11;
                $body
            }
            _ => {
                const $tile: usize = 12;
                $body
            }
        }
    };
}
pub(crate) use with_tile;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::testing::{bytes, values};

    /// Results of every operation that is exact, or rounds once, on the same operands.
    struct Exact;

    impl Kernel for Exact {
        type Output = Vec<f32>;
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Vec<f32> {
            let operands: Vec<[f32; LANES]> = (0..4).map(|i| values(LANES, 100.0, i).try_into().unwrap()).collect();
            let (a, b) = (s.load(&operands[0]), s.load(&operands[1]));
            let mut results = vec![
                s.add(a, b),
                s.sub(a, b),
                s.mul(a, b),
                s.div(a, b),
                s.max(a, b),
                s.min(a, b),
                s.abs(a),
                s.round(a),
            ];
            results.push(s.scale_by_power(a, s.splat(-3.0)));
            results.push(s.max(a, s.splat(f32::NAN)));
            results.push(s.min(s.splat(f32::NAN), a));
            results.extend([0, 1, 0x80, 0x180, 0xa5f3, u16::MAX].map(|mask| s.select(a, mask, -1.0)));
            let halves = s.to_f16(a);
            results.push(s.load_f16(&halves));
            let subnormal = [0, 1, 0x8000, 0x3ff, 0x7bff, 0xfbff, 0x7c00, 0xfc00].map(f16::from_bits);
            results.push(s.load_f16(&std::array::from_fn(|i| subnormal[i % 8])));
            results.push(s.load_bf16(&operands[0].map(bf16::from_f32)));
            let line = Line(bytes(64, 9).try_into().unwrap());
            let (low, high) = s.nibbles(&line);
            for quad in [[1, -2, 3, -4], [-128, -128, -128, -128], [127, 127, 127, 127]].map(|q: [i8; 4]| q) {
                let quad = i32::from_ne_bytes(quad.map(|b| b as u8));
                let acc = s.dot_nibbles(s.dot_nibbles(s.zero(), low, quad), high, quad);
                results.push(s.to_f32(acc));
                results.push(s.to_f32(s.dot_codes(acc, s.codes(&line), quad)));
            }
            let mut out = vec![s.maximum(a)];
            for lane in 0..LANES {
                let mut above = operands[0];
                above[lane] += 1.0;
                let (above, nan) = (s.load(&above), s.select(a, !(1 << lane), f32::NAN));
                let greater = [s.any_greater(above, a), s.any_greater(a, above), s.any_greater(nan, a)];
                out.extend(greater.map(|yes| f32::from(u8::from(yes))));
            }
            out.extend(s.to_i8(s.round(a)).map(f32::from));
            for result in results {
                let mut lanes = [0.0; LANES];
                s.store(result, &mut lanes);
                out.extend(lanes);
            }
            out
        }
    }

    /// `exp2` and `sum`, which round differently.
    struct Rounded([f32; LANES]);

    impl Kernel for Rounded {
        type Output = ([f32; LANES], f32);
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Self::Output {
            let mut powers = [0.0; LANES];
            s.store(s.exp2(s.load(&self.0)), &mut powers);
            (powers, s.sum(s.load(&self.0)))
        }
    }

    #[test]
    fn instruction_sets_agree() {
        let expected = Isa::Portable(portable::Portable).run(Exact);
        for isa in Isa::available() {
            let actual = isa.run(Exact);
            let same = actual.iter().zip(&expected).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
            assert!(same, "{}: {actual:?} against {expected:?}", isa.name());
        }
    }

    #[test]
    fn powers_and_sums_are_accurate() {
        for isa in Isa::available() {
            for seed in 0..200 {
                let x: [f32; LANES] = values(LANES, 125.0, seed).try_into().unwrap();
                let (powers, sum) = isa.run(Rounded(x));
                for (x, power) in x.iter().zip(powers) {
                    let exact = f64::from(*x).exp2();
                    assert!((f64::from(power) / exact - 1.0).abs() < 3e-7, "{}: 2^{x} = {power}", isa.name());
                }
                let exact: f64 = x.iter().map(|x| f64::from(*x)).sum();
                assert!((f64::from(sum) - exact).abs() < 1e-3, "{}", isa.name());
            }
            let extremes = [f32::NEG_INFINITY, -1e30, -126.0, 0.0, 127.0, 1e30, 1.0, -1.0];
            let x = std::array::from_fn(|i| extremes[i % 8]);
            let (powers, _) = isa.run(Rounded(x));
            assert_eq!(powers[3..8], [1.0, 127f32.exp2(), 127f32.exp2(), 2.0, 0.5], "{}", isa.name());
            assert_eq!(powers[..3], [(-126f32).exp2(); 3], "{}", isa.name());
        }
    }
}
