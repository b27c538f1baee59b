//! Models that give only the likeliest tokens where a draw needs no more: outputs are those of models that give all logits.

use edgewise_model_api::Constraint;

use super::{scripted::NAN, *};

fn samplings() -> Vec<Sampling> {
    let warm = Sampling { temperature: 1.5, seed: Some(3), ..Sampling::default() };
    vec![
        Sampling::default(),
        Sampling { top_k: 4, ..warm.clone() },
        Sampling { top_k: 9, top_p: 0.8, min_p: 0.05, ..warm.clone() },
        Sampling { top_k: 1000, ..warm.clone() },
        Sampling { top_p: 0.9, ..warm.clone() },
        Sampling { repetition_penalty: 1.3, ..Sampling::default() },
        warm,
    ]
}

/// Requests of every kind, alone and all at once; a grammar among them.
fn outputs(engine: &Engine) -> Vec<Vec<Output>> {
    let constraint = Some(Constraint::Regex("[a-z]{3,9}".to_owned()));
    let requests: Vec<GenerateRequest> = samplings()
        .into_iter()
        .enumerate()
        .map(|(i, sampling)| GenerateRequest {
            sampling,
            n: 1 + i % 3,
            max_tokens: 12,
            ..request(&[10, 20 + i as u32])
        })
        .chain([GenerateRequest { constraint, max_tokens: 12, ..request(&[10, 60]) }])
        .collect();
    let alone: Vec<Vec<Output>> = requests
        .iter()
        .map(|request| collect_all(engine.generator.generate(request.clone()).unwrap(), request.n).unwrap())
        .collect();
    let tenant = TenantId("together".into());
    let streams: Vec<_> = requests
        .iter()
        .map(|request| GenerateRequest { tenant: tenant.clone(), ..request.clone() })
        .map(|request| (request.n, engine.generator.generate(request).unwrap()))
        .collect();
    for ((n, stream), alone) in streams.into_iter().zip(&alone) {
        let ids = |outputs: &[Output]| outputs.iter().map(|output| output.ids.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&collect_all(stream, n).unwrap()), ids(alone));
    }
    alone
}

#[test]
fn outputs_are_those_drawn_from_all_logits() {
    let whole = outputs(&engine_that(options(), false, false));
    let selected = outputs(&engine_that(options(), false, true));
    assert_eq!(whole, selected);
}

#[test]
fn a_request_whose_logits_are_no_numbers_fails_alone() {
    let engine = engine_that(options(), false, true);
    let good = engine.generator.generate(request(&[10, 11])).unwrap();
    let bad = engine.generator.generate(request(&[1, NAN])).unwrap();
    assert_eq!(collect(good).unwrap().ids.len(), 5);
    let error = collect(bad).unwrap_err().to_string();
    assert!(error.contains("no token that is possible"), "{error}");
}
