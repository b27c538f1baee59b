//! Logits of a model on an NVIDIA Hopper, to be compared with another program's:
//!
//! `cargo run -p edgewise-engine --features cuda --example cuda_logits -- MODEL IDS PROMPT OUT`
//!
//! MODEL is a GGUF file or a folder with safetensors, IDS its tokens, separated by commas. The first PROMPT tokens are
//! computed as a prompt, the others one by one as if they had been generated. OUT gets the logits behind the prompt and
//! behind each other token, f32, little-endian.

use std::{error::Error, path::Path};

use edgewise_engine::decoder::{BatchEntry, Cuda, CudaOptions, Decoder, GgufFile, LoadOptions};
use edgewise_kv_cache::PageId;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, ids, prompt, out] = &arguments[..] else {
        return Err("usage: cuda_logits MODEL IDS PROMPT OUT".into());
    };
    let ids = ids.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let prompt: usize = prompt.parse()?;
    if prompt == 0 || prompt > ids.len() {
        return Err(format!("a prompt of {prompt} of {} tokens", ids.len()).into());
    }
    let cuda = Cuda::open(CudaOptions { max_rows: ids.len(), ..CudaOptions::default() })?;
    let decoder = if Path::new(model).is_dir() {
        Decoder::from_folder(model, cuda, &LoadOptions::default())?
    } else {
        Decoder::from_gguf(&GgufFile::open(model)?, cuda, &LoadOptions::default())?
    };
    let count = u32::try_from(ids.len().div_ceil(decoder.page_tokens()))?;
    let (mut kv, pages) = (decoder.allocate(count as usize)?, (0..count).map(PageId).collect::<Vec<PageId>>());
    let mut bytes = Vec::new();
    let parts = std::iter::once(0..prompt).chain((prompt..ids.len()).map(|position| position..position + 1));
    for part in parts {
        let entry = BatchEntry {
            tokens: &ids[part.clone()],
            position: part.start,
            pages: &pages,
            logits: true,
            generated_from: prompt,
        };
        let logits = decoder.forward(&mut kv, &[entry])?;
        bytes.extend(logits.into_iter().flatten().flatten().flat_map(f32::to_le_bytes));
    }
    std::fs::write(out, bytes)?;
    Ok(())
}
