//! AVX-512 with VNNI: one register per vector.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{CodeLine, Kernel, LANES, Simd};

/// Proof that the processor has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni"))
        .then_some(Self(()))
    }
}

macro_rules! intrinsic {
    ($call:expr) => {{
        // SAFETY: a value of `Avx512` exists only where detection found the instructions, and every pointer given to
        // one comes from a reference to an array of the length the instruction reads or writes.
        unsafe { $call }
    }};
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type C = __m512i;
    // 12 integer and 12 floating-point accumulators, and 8 registers for weights and scales.
    const TILE: usize = 12;
    // 24 accumulators of scores or of the weighted sum.
    const QUERY_ROWS: usize = 12;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2")]
        fn enabled<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.call(simd)
        }
        intrinsic!(enabled(self, kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        intrinsic!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        intrinsic!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        intrinsic!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F {
        let halves = intrinsic!(_mm256_loadu_si256(x.as_ptr().cast()));
        intrinsic!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves))))
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; LANES]) {
        intrinsic!(_mm512_storeu_ps(to.as_mut_ptr(), x))
    }
    #[inline(always)]
    fn to_f16(self, x: Self::F) -> [f16; LANES] {
        let mut halves = [f16::ZERO; LANES];
        let rounded = intrinsic!(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
        intrinsic!(_mm256_storeu_si256(halves.as_mut_ptr().cast(), rounded));
        halves
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        intrinsic!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        intrinsic!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F {
        intrinsic!(_mm512_scalef_ps(a, n))
    }
    #[inline(always)]
    fn select(self, a: Self::F, mask: u16, fill: f32) -> Self::F {
        intrinsic!(_mm512_mask_blend_ps(mask, _mm512_set1_ps(fill), a))
    }
    #[inline(always)]
    fn any_greater(self, a: Self::F, b: Self::F) -> bool {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)) != 0
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        intrinsic!(_mm512_reduce_add_ps(a))
    }
    #[inline(always)]
    fn maximum(self, a: Self::F) -> f32 {
        intrinsic!(_mm512_reduce_max_ps(a))
    }
    #[inline(always)]
    fn to_i8(self, a: Self::F) -> [i8; LANES] {
        let mut bytes = [0; LANES];
        intrinsic!(_mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a))));
        bytes
    }

    #[inline(always)]
    fn prefetch<T>(self, x: *const T) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(x.cast()));
    }

    #[inline(always)]
    fn zero(self) -> Self::I {
        intrinsic!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        intrinsic!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn codes(self, line: &CodeLine) -> Self::C {
        intrinsic!(_mm512_load_si512(line.0.as_ptr().cast()))
    }
    #[inline(always)]
    fn nibbles(self, line: &CodeLine) -> (Self::C, Self::C) {
        let bytes = self.codes(line);
        let low = intrinsic!(_mm512_set1_epi8(0x0f));
        intrinsic!((_mm512_and_si512(bytes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low)))
    }
    #[inline(always)]
    fn dot_nibbles(self, acc: Self::I, codes: Self::C, quad: i32) -> Self::I {
        self.dot_codes(acc, codes, quad)
    }
    #[inline(always)]
    fn dot_codes(self, acc: Self::I, codes: Self::C, quad: i32) -> Self::I {
        intrinsic!(_mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(quad)))
    }
}
