//! The 16-bit numbers the device computes with.

/// A kind of 16-bit number. Sums are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Half {
    /// bfloat16: the range of an f32 and 8 significant bits.
    #[default]
    Bf16,
    /// IEEE half precision: 11 significant bits, and nothing beyond 65504.
    F16,
}

impl Half {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The number nearest to `value`, as the device has it in memory.
    pub fn to_le_bytes(self, value: f32) -> [u8; 2] {
        match self {
            Self::Bf16 => half::bf16::from_f32(value).to_le_bytes(),
            Self::F16 => half::f16::from_f32(value).to_le_bytes(),
        }
    }

    /// The number that is in memory as `bytes`.
    pub fn from_le_bytes(self, bytes: [u8; 2]) -> f32 {
        match self {
            Self::Bf16 => half::bf16::from_le_bytes(bytes).to_f32(),
            Self::F16 => half::f16::from_le_bytes(bytes).to_f32(),
        }
    }

    /// The largest one.
    pub fn most(self) -> f32 {
        match self {
            Self::Bf16 => half::bf16::MAX.to_f32(),
            Self::F16 => half::f16::MAX.to_f32(),
        }
    }
}
