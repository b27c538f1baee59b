//! Plain Rust on arrays: runs everywhere, and is what the other instruction sets are tested against.

use half::{bf16, f16};

use super::{CodeLine, Kernel, LANES, Simd};

/// No instruction set in particular.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type C = [u8; 64];
    const TILE: usize = 2;
    const QUERY_ROWS: usize = 2;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.call(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        x.map(f16::to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F {
        x.map(bf16::to_f32)
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn to_f16(self, x: Self::F) -> [f16; LANES] {
        x.map(f16::from_f32)
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // Two roundings: without a fused instruction, `f32::mul_add` is a slow library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F {
        zip(a, n, |a, n| a * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn select(self, a: Self::F, mask: u16, fill: f32) -> Self::F {
        std::array::from_fn(|i| if mask & 1 << i != 0 { a[i] } else { fill })
    }
    #[inline(always)]
    fn any_greater(self, a: Self::F, b: Self::F) -> bool {
        (0..LANES).any(|i| a[i] > b[i])
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    fn maximum(self, a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn to_i8(self, a: Self::F) -> [i8; LANES] {
        a.map(|x| x as i8)
    }

    #[inline(always)]
    fn zero(self) -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn codes(self, line: &CodeLine) -> Self::C {
        line.0
    }
    #[inline(always)]
    fn nibbles(self, line: &CodeLine) -> (Self::C, Self::C) {
        (line.0.map(|b| b & 0x0f), line.0.map(|b| b >> 4))
    }
    #[inline(always)]
    fn dot_nibbles(self, acc: Self::I, codes: Self::C, quad: i32) -> Self::I {
        self.dot_codes(acc, codes, quad)
    }
    #[inline(always)]
    fn dot_codes(self, acc: Self::I, codes: Self::C, quad: i32) -> Self::I {
        let quad = quad.to_ne_bytes().map(|b| i32::from(b as i8));
        std::array::from_fn(|row| {
            let dot: i32 = (0..4).map(|i| i32::from(codes[4 * row + i]) * quad[i]).sum();
            acc[row] + dot
        })
    }
}
