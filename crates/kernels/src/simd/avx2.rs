//! AVX2 with FMA and F16C: two registers per vector.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{CodeLine, Kernel, LANES, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"))
            .then_some(Self(()))
    }
}

macro_rules! intrinsic {
    ($call:expr) => {{
        // SAFETY: a value of `Avx2` exists only where detection found the instructions, and every pointer given to one
        // comes from a reference to an array of the length the instruction reads or writes.
        unsafe { $call }
    }};
}

type Pair = [__m256; 2];

/// Applies an intrinsic to both halves. A macro, because a closure would be compiled without the instructions.
macro_rules! halves {
    ($op:ident($a:expr)) => {
        intrinsic!([$op($a[0]), $op($a[1])])
    };
    ($op:ident($a:expr, $b:expr)) => {
        intrinsic!([$op($a[0], $b[0]), $op($a[1], $b[1])])
    };
}

impl Simd for Avx2 {
    type F = Pair;
    type I = [__m256i; 2];
    type C = [__m256i; 2];
    // Four tokens need 8 integer accumulators; the floating-point ones spill once per block of 32.
    const TILE: usize = 4;
    // 12 accumulators of scores or of the weighted sum.
    const QUERY_ROWS: usize = 3;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.call(simd)
        }
        intrinsic!(enabled(self, kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [intrinsic!(_mm256_set1_ps(x)); 2]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let p = x.as_ptr();
        intrinsic!([_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))])
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        let p = x.as_ptr();
        intrinsic!([_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())),])
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F {
        let p: *const __m128i = x.as_ptr().cast();
        intrinsic!({
            let low = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)));
            let high = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(1))));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        })
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; LANES]) {
        let p = to.as_mut_ptr();
        intrinsic!({
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        })
    }
    #[inline(always)]
    fn to_f16(self, x: Self::F) -> [f16; LANES] {
        let mut halves = [f16::ZERO; LANES];
        let p: *mut __m128i = halves.as_mut_ptr().cast();
        intrinsic!({
            _mm_storeu_si128(p, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
        });
        halves
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        intrinsic!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        let sign = intrinsic!(_mm256_set1_ps(-0.0));
        intrinsic!([_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])])
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        intrinsic!([_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])])
    }
    #[inline(always)]
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F {
        intrinsic!({
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias));
            let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias));
            [_mm256_mul_ps(a[0], _mm256_castsi256_ps(low)), _mm256_mul_ps(a[1], _mm256_castsi256_ps(high))]
        })
    }
    #[inline(always)]
    fn select(self, a: Self::F, mask: u16, fill: f32) -> Self::F {
        intrinsic!({
            let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let low = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(i32::from(mask)), bit), bit);
            let high = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(i32::from(mask >> 8)), bit), bit);
            let fill = _mm256_set1_ps(fill);
            [
                _mm256_blendv_ps(fill, a[0], _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(fill, a[1], _mm256_castsi256_ps(high)),
            ]
        })
    }
    #[inline(always)]
    fn any_greater(self, a: Self::F, b: Self::F) -> bool {
        intrinsic!({
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]);
            _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0
        })
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        intrinsic!({
            let eight = _mm256_add_ps(a[0], a[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    fn maximum(self, a: Self::F) -> f32 {
        intrinsic!({
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    fn to_i8(self, a: Self::F) -> [i8; LANES] {
        let mut words = [0i32; LANES];
        intrinsic!({
            _mm256_storeu_si256(words.as_mut_ptr().cast(), _mm256_cvtps_epi32(a[0]));
            _mm256_storeu_si256(words.as_mut_ptr().add(8).cast(), _mm256_cvtps_epi32(a[1]));
        });
        words.map(|w| w as i8)
    }

    #[inline(always)]
    fn prefetch<T>(self, x: *const T) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(x.cast()));
    }

    #[inline(always)]
    fn zero(self) -> Self::I {
        [intrinsic!(_mm256_setzero_si256()); 2]
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        halves!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn codes(self, line: &CodeLine) -> Self::C {
        let p: *const __m256i = line.0.as_ptr().cast();
        intrinsic!([_mm256_load_si256(p), _mm256_load_si256(p.add(1))])
    }
    #[inline(always)]
    fn nibbles(self, line: &CodeLine) -> (Self::C, Self::C) {
        split(self.codes(line))
    }
    #[inline(always)]
    fn dot_nibbles(self, acc: Self::I, codes: Self::C, quad: i32) -> Self::I {
        // 2·15·128 fits the 16-bit sums of the multiply-add.
        let ones = intrinsic!(_mm256_set1_epi16(1));
        multiply_add(acc, codes, quad, ones)
    }
    #[inline(always)]
    fn dot_codes(self, acc: Self::I, codes: Self::C, quad: i32) -> Self::I {
        // A whole byte would overflow those sums, so each nibble is multiplied on its own: exact, at twice the work.
        let (low, high) = split(codes);
        let sixteens = intrinsic!(_mm256_set1_epi16(16));
        multiply_add(self.dot_nibbles(acc, low, quad), high, quad, sixteens)
    }
}

/// `acc + Σ codes·quad·factor`.
#[inline(always)]
fn multiply_add(acc: [__m256i; 2], codes: [__m256i; 2], quad: i32, factor: __m256i) -> [__m256i; 2] {
    intrinsic!({
        let quad = _mm256_set1_epi32(quad);
        let low = _mm256_madd_epi16(_mm256_maddubs_epi16(codes[0], quad), factor);
        let high = _mm256_madd_epi16(_mm256_maddubs_epi16(codes[1], quad), factor);
        [_mm256_add_epi32(acc[0], low), _mm256_add_epi32(acc[1], high)]
    })
}

/// Low and high nibbles of each byte.
#[inline(always)]
fn split(bytes: [__m256i; 2]) -> ([__m256i; 2], [__m256i; 2]) {
    intrinsic!({
        let mask = _mm256_set1_epi8(0x0f);
        let high = [_mm256_srli_epi16::<4>(bytes[0]), _mm256_srli_epi16::<4>(bytes[1])];
        (
            [_mm256_and_si256(bytes[0], mask), _mm256_and_si256(bytes[1], mask)],
            [_mm256_and_si256(high[0], mask), _mm256_and_si256(high[1], mask)],
        )
    })
}
