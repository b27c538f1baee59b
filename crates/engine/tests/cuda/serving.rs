//! SmolLM2 on the card, behind the scheduler: against the CPU, and the cache's promise that it never changes an output.

use std::path::PathBuf;

use edgewise_engine::{
    EngineOptions, KvPrecision, LocalGenerator, Placement,
    decoder::{Arithmetic, Cuda, Decoder, GgufFile, LoadOptions},
    load_generator,
};
use edgewise_model_api::{
    ChatMessage, GenerateRequest, GenerationEvent, GenerationStream, Generator, Prompt, Role, Sampling,
};
use edgewise_types::TenantId;

use crate::support::{CUDA, CUDA_F16, CUDA_F16_FP8, Sequence, best, relative_error};

fn model() -> PathBuf {
    let models =
        std::env::var_os("EDGEWISE_TEST_MODELS").expect("EDGEWISE_TEST_MODELS names the folder of test models");
    PathBuf::from(models).join("smollm2-135m-instruct").join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn generator(options: &EngineOptions) -> LocalGenerator {
    let options = EngineOptions { device: Placement::Cuda, device_memory_share: 0.2, ..options.clone() };
    load_generator("smollm2", &model(), &options).unwrap()
}

const QUESTIONS: [&str; 5] = [
    "What is the capital of France?",
    "Name three primary colours.",
    "Write a short poem about a river.",
    "What is 2 + 2?",
    "Explain in two sentences why the sky is blue.",
];

/// A text of some thousand tokens, and a question behind it.
fn long_question() -> String {
    let passage =
        |i: u32| format!("Passage {i}. The keeper of lighthouse {i} wrote {} letters in the winter. ", i * 7 % 31);
    let passages: String = (0..120).map(passage).collect();
    format!("{passages}\nHow many letters did the keeper of lighthouse 9 write?")
}

fn request(generator: &LocalGenerator, question: &str, tenant: &str, max_tokens: usize) -> GenerateRequest {
    let tokens = generator.encode_chat(&[ChatMessage::text(Role::User, question)]).unwrap().tokens;
    request_of(tokens, tenant, max_tokens)
}

fn request_of(tokens: Vec<u32>, tenant: &str, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        tenant: TenantId(tenant.into()),
        prompt: Prompt { tokens, boundaries: Vec::new(), public_tokens: 0 },
        max_tokens,
        stop: Vec::new(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        constraint: None,
        n: 1,
    }
}

/// Ids, text, and tokens that were resident.
fn collect(mut stream: GenerationStream) -> (Vec<u32>, String, usize) {
    let (mut ids, mut text, mut cached) = (Vec::new(), String::new(), 0);
    loop {
        match stream.next_blocking().expect("a last event") {
            GenerationEvent::Token { id, text: piece, .. } => {
                ids.push(id);
                text.push_str(&piece);
            }
            GenerationEvent::Started { cached_tokens, .. } => cached = cached_tokens,
            GenerationEvent::Finished { .. } => return (ids, text, cached),
            GenerationEvent::Failed(error) => panic!("{error}"),
        }
    }
}

fn run(generator: &LocalGenerator, request: GenerateRequest) -> (Vec<u32>, String, usize) {
    collect(generator.generate(request).unwrap())
}

/// Logits no further from exact arithmetic than those the CPU serves with, which rounds activations to 8 bits, on average
/// and at worst, and nowhere further than a fiftieth. In half precision, which is what is taken for this model.
#[test]
fn answers_are_the_cpus() {
    let (mean, worst, mean_served, worst_served) = answers(&CUDA_F16, KvPrecision::Half);
    assert!(worst <= worst_served && mean <= mean_served, "{mean} and {worst}, {mean_served} and {worst_served}");
    assert!(worst < 2e-2, "{worst}");
}

/// Keys and values have 4 significant bits: the error is about that of what the CPU serves with.
#[test]
fn answers_with_fp8_pages_are_the_cpus_but_for_rounding() {
    let (mean, worst, ..) = answers(&CUDA_F16_FP8, KvPrecision::Fp8);
    assert!(mean < 7e-2 && worst < 2.5e-1, "{mean} and {worst}");
}

/// Real questions: the CPU's greedy tokens, or a token the CPU finds as likely but for rounding. The relative error of
/// logits, mean and largest, and that of those the CPU serves with.
fn answers(device: &Cuda, kv_precision: KvPrecision) -> (f64, f64, f64, f64) {
    let gguf = GgufFile::open(model()).unwrap();
    let cpu = Decoder::load_gguf_with(&gguf, Arithmetic::F32).unwrap();
    let cuda = Decoder::from_gguf(&gguf, device.clone(), &LoadOptions::default()).unwrap();
    let generator = generator(&EngineOptions { device_kv_precision: kv_precision, ..EngineOptions::default() });
    let served = Decoder::load_gguf_with(&gguf, Arithmetic::Quantized).unwrap();
    let (mut worst, mut worst_served, mut sum, mut sum_served, mut count) = (0.0f64, 0.0f64, 0.0, 0.0, 0.0);
    for question in QUESTIONS {
        let mut request = request(&generator, question, "answers", 48);
        let prompt = std::mem::take(&mut request.prompt.tokens);
        request.prompt.tokens = prompt.clone();
        let (ids, text, _) = run(&generator, request);
        println!("{question} -> {text:?}");
        let mut on_cpu = Sequence::new(&cpu, 512, prompt.len());
        let mut on_cuda = Sequence::new(&cuda, 512, prompt.len());
        let mut as_served = Sequence::new(&served, 512, prompt.len());
        let (mut expected, mut found) = (on_cpu.feed(&prompt), on_cuda.feed(&prompt));
        let mut rounded = as_served.feed(&prompt);
        for (i, id) in ids.iter().enumerate() {
            let (error, error_served) = (relative_error(&found, &expected), relative_error(&rounded, &expected));
            (worst, worst_served) = (worst.max(error), worst_served.max(error_served));
            (sum, sum_served, count) = (sum + error, sum_served + error_served, count + 1.0);
            if *id != best(&expected) {
                // Their distance is within what rounding moved logits by.
                let gap = expected[best(&expected) as usize] - expected[*id as usize];
                let moved = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                println!("  token {i}: {id} for {}, gap {gap:.3}, moved {moved:.3}", best(&expected));
                assert!(gap <= 2.0 * moved, "token {i} of {question:?}: {gap} apart, rounding moved {moved}");
            }
            (expected, found) = (on_cpu.feed(&[*id]), on_cuda.feed(&[*id]));
            rounded = as_served.feed(&[*id]);
        }
        assert_eq!(ids[0], best(&Sequence::new(&cuda, 512, prompt.len()).feed(&prompt)));
    }
    let (mean, mean_served) = (sum / count, sum_served / count);
    println!("relative error of logits: mean {mean:.2e}, largest {worst:.2e}");
    println!("of those the CPU serves with: mean {mean_served:.2e}, largest {worst_served:.2e}");
    (mean, worst, mean_served, worst_served)
}

#[test]
fn cached_cold_alone_and_batched_give_the_same_tokens() {
    cached_cold_alone_and_batched(KvPrecision::Half);
}

#[test]
fn cached_cold_alone_and_batched_give_the_same_tokens_with_fp8_pages() {
    cached_cold_alone_and_batched(KvPrecision::Fp8);
}

fn cached_cold_alone_and_batched(device_kv_precision: KvPrecision) {
    let options = EngineOptions { device_prefill_chunk: 512, device_kv_precision, ..EngineOptions::default() };
    let generator = generator(&options);
    let long = long_question();
    let questions: Vec<&str> = QUESTIONS.into_iter().chain([long.as_str()]).collect();
    let cold: Vec<_> = questions
        .iter()
        .enumerate()
        .map(|(i, q)| run(&generator, request(&generator, q, &format!("cold{i}"), 40)))
        .collect();
    assert!(cold.iter().all(|(_, _, cached)| *cached == 0));
    // Warm: all but the last token is resident.
    for (i, question) in questions.iter().enumerate() {
        let request = request(&generator, question, &format!("cold{i}"), 40);
        let prompt = request.prompt.tokens.len();
        let warm = run(&generator, request);
        assert_eq!(warm.0, cold[i].0, "{question}");
        assert!(prompt < 64 || warm.2 == prompt - 1, "{} of {prompt} tokens were resident", warm.2);
    }
    // All together, cold, several times over.
    for round in 0..3 {
        let streams: Vec<_> = (0..24)
            .map(|i| {
                let question = questions[i % questions.len()];
                generator.generate(request(&generator, question, &format!("batch{round}-{i}"), 40)).unwrap()
            })
            .collect();
        for (i, stream) in streams.into_iter().enumerate() {
            assert_eq!(collect(stream).0, cold[i % questions.len()].0, "round {round}, request {i}");
        }
    }
    // A follow-up behind an answer: the prompt is reused, the answer is not, and nothing changes.
    let mut turn = request(&generator, &long, "cold5", 40).prompt.tokens;
    turn.extend(&cold[5].0);
    turn.extend(generator.tokenizer().encode("\nAnd lighthouse 10?").unwrap());
    let prompt = turn.len() - cold[5].0.len();
    let warm = run(&generator, request_of(turn.clone(), "cold5", 24));
    let fresh = run(&generator, request_of(turn, "fresh", 24));
    assert_eq!((fresh.2, &warm.0), (0, &fresh.0));
    assert!(warm.2 > 1000 && warm.2 <= prompt, "{} resident", warm.2);
}

/// Far too few pages: sequences are preempted and begin again, and nobody's tokens change.
#[test]
fn preempted_sequences_give_the_same_tokens() {
    let page = 64;
    let options = EngineOptions { device_prefill_chunk: 256, min_prefix_tokens: 16, ..EngineOptions::default() };
    let roomy = generator(&options);
    let requests = |generator: &LocalGenerator| -> Vec<GenerateRequest> {
        let one = |i: usize| request(generator, QUESTIONS[i % 5], &format!("t{i}"), 150);
        (0..12).map(one).collect()
    };
    let expected: Vec<_> = requests(&roomy).into_iter().map(|request| run(&roomy, request).0).collect();
    drop(roomy);
    let gguf = GgufFile::open(model()).unwrap();
    let bytes = Decoder::from_gguf(&gguf, CUDA.clone(), &LoadOptions::default()).unwrap().page_bytes();
    let tight = generator(&EngineOptions { device_cache_bytes: Some(14 * bytes), ..options });
    assert_eq!(tight.info().context_window, 14 * page);
    let streams: Vec<_> = requests(&tight).into_iter().map(|request| tight.generate(request).unwrap()).collect();
    for (i, stream) in streams.into_iter().enumerate() {
        assert_eq!(collect(stream).0, expected[i], "request {i}");
    }
}
