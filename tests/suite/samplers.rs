//! Sampler plans against trajectories of diffusers' own schedulers, made by `tests/parity/samplers.py`.

use proptest::prelude::*;
use serde_json::{Value, json};
use stablehand::diffusion::sampler::{Plan, PlanError, SchedulerConfig, plan};
use stablehand::domain::Scheduler;
use std::collections::BTreeMap;

const SIZE: usize = 16;

/// The made-up numbers of the script, in [-2, 2).
fn numbers(stream: u64, index: u64) -> Vec<f32> {
    let mixed = |i: u64| {
        let mut x = stream
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(index.wrapping_mul(0xBF58_476D_1CE4_E5B9))
            .wrapping_add(i.wrapping_mul(0x94D0_49BB_1331_11EB))
            .wrapping_add(1);
        for _ in 0..2 {
            x = (x ^ (x >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        }
        (x >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..SIZE as u64).map(mixed).collect()
}

/// The samples after each evaluation.
fn trajectory(plan: &Plan, seed: u64) -> Vec<Vec<f32>> {
    let mut x: Vec<f32> = numbers(seed, 0).into_iter().map(|v| (f64::from(v) * plan.init_noise_sigma) as f32).collect();
    let mut slots = plan.new_slots(SIZE);
    let mut draws = 0;
    let step = |(i, evaluation): (usize, &stablehand::diffusion::sampler::Evaluation)| {
        let noise = evaluation.draws_noise.then(|| {
            draws += 1;
            numbers(seed + 1, draws)
        });
        evaluation.apply(&mut x, &numbers(seed + 2, i as u64), &mut slots, noise.as_deref());
        x.clone()
    };
    plan.evaluations.iter().enumerate().map(step).collect()
}

fn peak(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).fold(0.0, f64::max)
}

fn cases() -> Vec<Value> {
    let text = match std::env::var_os("STABLEHAND_GOLDENS") {
        Some(dir) => std::fs::read_to_string(std::path::Path::new(&dir).join("samplers.jsonl")).unwrap(),
        None => include_str!("../goldens/samplers.jsonl").to_owned(),
    };
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What diffusers does and we say plainly that we do not.
fn refused_by_us(case: &Value) -> bool {
    let config = &case["config"];
    let (name, scheduler) = (case["name"].as_str().unwrap(), case["scheduler"].as_str().unwrap());
    let thresholding = config["thresholding"] == true && ["DDIM", "DPMSolverMultistep"].contains(&scheduler);
    thresholding || name.starts_with("flow") || name.starts_with("unknown prediction")
}

#[test]
fn plans_are_diffusers_trajectories() {
    let cases = cases();
    assert!(cases.len() > 1000);
    let mut worst: BTreeMap<&str, [(f64, String); 2]> = BTreeMap::new();
    let mut failures = Vec::new();
    for case in &cases {
        let scheduler = case["scheduler"].as_str().unwrap();
        let steps = case["steps"].as_u64().unwrap() as usize;
        let label = format!("{scheduler}, {steps} steps, {}", case["name"].as_str().unwrap());
        let config: SchedulerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let made = plan(Scheduler::from_name(scheduler).unwrap(), &config, steps);
        let must_fail = case["error"].is_string() || refused_by_us(case);
        match made {
            Err(_) if must_fail => {}
            Err(error) => failures.push(format!("{label}: {error}")),
            Ok(_) if must_fail => failures.push(format!("{label}: accepted, but {}", case["error"])),
            Ok(plan) => match compare(case, &plan) {
                Err(error) => failures.push(format!("{label}: {error}")),
                Ok((exact, rounded)) => {
                    let entry = worst.entry(scheduler).or_default();
                    for (worst, error) in entry.iter_mut().zip([exact, rounded]) {
                        if error > worst.0 {
                            *worst = (error, label.clone());
                        }
                    }
                }
            },
        }
    }
    println!("largest errors, against diffusers in f64 and in f32:");
    for (scheduler, [exact, rounded]) in &worst {
        println!("{scheduler}: {:.1e} ({}), {:.1e} ({})", exact.0, exact.1, rounded.0, rounded.1);
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// The largest errors over the trajectory, against diffusers in f64 and as users get it.
fn compare(case: &Value, plan: &Plan) -> Result<(f64, f64), String> {
    let evaluations = &plan.evaluations;
    let equal = |what: &str, ours: f64, theirs: f64, tolerance: f64| match (ours - theirs).abs() <= tolerance {
        true => Ok(()),
        false => Err(format!("{what} is {ours}, not {theirs}")),
    };
    equal("evaluations", evaluations.len() as f64, case["evaluations"].as_f64().unwrap(), 0.0)?;
    equal("draws", evaluations.iter().filter(|e| e.draws_noise).count() as f64, case["draws"].as_f64().unwrap(), 0.0)?;
    let advances = evaluations.iter().filter(|e| e.advances).count().min(plan.evaluations.len());
    let steps = case["steps"].as_u64().unwrap() as usize;
    equal("advances", advances as f64, steps.min(evaluations.len()) as f64, 0.0)?;
    let sigma = case["init_noise_sigma"].as_f64().unwrap();
    equal("init_noise_sigma", plan.init_noise_sigma, sigma, 2e-7 * sigma)?;
    // Timesteps that are looked up by a logarithm may differ in the last digit of f32.
    let looked_up = case["name"].as_str().unwrap().contains("sigmas") || case["name"] == "continuous";
    let looked_up = looked_up || case["name"].as_str().unwrap().contains("ends");
    let tolerance = |t: f64| if looked_up { 2e-6 * t.abs().max(10.0) } else { 0.0 };
    for (i, t) in pairs(&case["timesteps"]) {
        let t = f64::from(t.as_f64().unwrap() as f32);
        equal(&format!("timestep {i}"), evaluations[i].timestep.into(), t, tolerance(t))?;
    }
    let sum: f64 = evaluations.iter().map(|e| f64::from(e.timestep)).sum();
    let total = case["timestep_sum"].as_f64().unwrap();
    equal("sum of timesteps", sum, total, if looked_up { 2e-6 * total.abs() + 1e-3 } else { 1e-6 })?;
    for (i, scale) in pairs(&case["scales"]) {
        let scale = scale.as_f64().unwrap();
        equal(&format!("input scale {i}"), evaluations[i].input_scale, scale, 1e-6 * scale)?;
    }

    let seed = case["seed"].as_u64().unwrap();
    let exact = largest_error(plan, seed, &case["f64"]);
    let rounded = largest_error(plan, seed, &case["f32"]);
    if exact <= 1e-5 && rounded <= 1e-5 {
        Ok((exact, rounded))
    } else {
        Err(format!("error {exact:.1e} of diffusers in f64, {rounded:.1e} in f32"))
    }
}

/// In units of the larger of the samples before and after the step (or one, if both are small).
fn largest_error(plan: &Plan, seed: u64, expected: &Value) -> f64 {
    let samples = trajectory(plan, seed);
    let size = |values: &[f32]| peak(values.iter().map(|&v| f64::from(v)));
    let mut worst: f64 = 0.0;
    for (i, theirs) in pairs(expected) {
        let theirs = theirs.as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
        let error = peak(samples[i].iter().zip(theirs).map(|(a, b)| f64::from(*a) - b));
        let before = if i == 0 { 2.0 * plan.init_noise_sigma } else { size(&samples[i - 1]) };
        worst = worst.max(error / size(&samples[i]).max(before).max(1.0));
    }
    worst
}

/// `[[index, value], …]`
fn pairs(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().unwrap().iter().map(|pair| (pair[0].as_u64().unwrap() as usize, &pair[1]))
}

fn config(value: Value) -> SchedulerConfig {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_manifest_overrides_the_file() {
    let file = config(json!({"beta_schedule": "scaled_linear", "steps_offset": 1}));
    let overrides = json!({"final_sigmas_type": "sigma_min"});
    let changed = file.with_overrides(overrides.as_object().unwrap());
    let make = |config| plan(Scheduler::DpmSolverMultistep, config, 20).unwrap();
    assert_ne!(make(&file), make(&changed));
    assert_eq!(make(&file).evaluations[5], make(&changed).evaluations[5]);
}

#[test]
fn errors_name_the_option() {
    let error = |scheduler, value| plan(scheduler, &config(value), 20).unwrap_err().to_string();
    assert_eq!(error(Scheduler::Ddim, json!({"thresholding": true})), "DDIM with thresholding = true is not supported");
    assert_eq!(
        error(Scheduler::KEuler, json!({"timestep_spacing": "even"})),
        "scheduler config: timestep_spacing must be linspace, leading or trailing, not \"even\""
    );
    let few = json!({"num_train_timesteps": 10});
    assert_eq!(error(Scheduler::Pndm, few), "PNDM cannot make 20 steps: the model knows only 10 timesteps");
    let zero = plan(Scheduler::Ddim, &config(json!({})), 0);
    assert!(matches!(zero, Err(PlanError::Steps { steps: 0, .. })));
}

#[test]
fn options_of_other_classes_are_ignored() {
    let plain = config(json!({}));
    let strange = config(json!({"thresholding": true, "use_flow_sigmas": true, "_class_name": "Other", "x": [1]}));
    assert_eq!(plan(Scheduler::Pndm, &strange, 20), plan(Scheduler::Pndm, &plain, 20));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_config_gives_a_finite_plan_or_an_error(
        scheduler in prop::sample::select(Scheduler::ALL.to_vec()),
        steps in 1usize..=500,
        prediction in prop::sample::select(vec!["epsilon", "v_prediction", "sample"]),
        spacing in prop::sample::select(vec!["leading", "linspace", "trailing"]),
        betas in prop::sample::select(vec!["linear", "scaled_linear", "squaredcos_cap_v2"]),
        flags in prop::collection::vec(any::<bool>(), 6),
        train in prop::sample::select(vec![1, 7, 100, 1000]),
    ) {
        let config = config(json!({
            "prediction_type": prediction, "timestep_spacing": spacing, "beta_schedule": betas,
            "num_train_timesteps": train, "use_karras_sigmas": flags[0], "use_beta_sigmas": flags[5], "rescale_betas_zero_snr": flags[1],
            "skip_prk_steps": flags[2], "clip_sample": flags[3], "steps_offset": i32::from(flags[4]),
        }));
        if let Ok(plan) = plan(scheduler, &config, steps) {
            prop_assert!(plan.init_noise_sigma.is_finite());
            prop_assert!(plan.evaluations.len() + 1 >= steps || scheduler == Scheduler::DpmSolverMultistep);
            for evaluation in &plan.evaluations {
                let update = &evaluation.update;
                let slots = update.slots.iter().map(|s| s.1);
                prop_assert!([update.sample, update.output, update.noise].into_iter().chain(slots).all(f64::is_finite));
                prop_assert!(update.slots.iter().all(|s| s.0 < plan.slots));
                prop_assert!(evaluation.keep.iter().all(|k| k.slot < plan.slots));
            }
        }
    }
}

/// With an answer that is always right, the sample that each evaluation predicts is the finished one.
#[test]
fn the_clean_sample_is_predicted() {
    let clean = numbers(5, 0);
    let noise = numbers(5, 1);
    let schedulers =
        [Scheduler::Ddim, Scheduler::KEuler, Scheduler::DpmSolverMultistep, Scheduler::Pndm, Scheduler::Klms];
    for (scheduler, prk) in schedulers.into_iter().zip([true; 5]).chain([(Scheduler::Pndm, false)]) {
        let config = config(json!({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
            "clip_sample": false, "skip_prk_steps": prk, "steps_offset": 1}));
        let plan = plan(scheduler, &config, 20).unwrap();
        let mut slots = plan.new_slots(SIZE);
        let first = &plan.evaluations[0];
        let (alpha, sigma) = (1.0 / first.clean.0, -first.clean.1 / first.clean.0);
        let mixed = |(x, n): (&f32, &f32)| (alpha * f64::from(*x) + sigma * f64::from(*n)) / first.input_scale;
        let mut x: Vec<f32> = clean.iter().zip(&noise).map(mixed).map(|value| value as f32).collect();
        for (i, evaluation) in plan.evaluations.iter().enumerate() {
            let scaled: Vec<f32> = x.iter().map(|x| x * evaluation.input_scale as f32).collect();
            let predicted = evaluation.predict_clean(&scaled, &noise);
            let off = peak(predicted.iter().zip(&clean).map(|(a, b)| f64::from(a - b)));
            assert!(off < 2e-3, "{scheduler:?}, evaluation {i}: {off}");
            evaluation.apply(&mut x, &noise, &mut slots, None);
        }
    }
}

#[test]
fn every_step_count_of_the_usual_files_has_a_plan() {
    let files = [
        json!({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
               "skip_prk_steps": true, "set_alpha_to_one": false, "clip_sample": false}),
        json!({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
               "prediction_type": "v_prediction", "set_alpha_to_one": false, "clip_sample": false}),
    ];
    for file in files {
        let config = config(file);
        for scheduler in Scheduler::ALL {
            for steps in 1..=500 {
                let runge_kutta = scheduler == Scheduler::Pndm && steps < 4;
                match plan(scheduler, &config, steps) {
                    Ok(plan) => assert!(plan.evaluations.iter().filter(|e| e.advances).count() <= steps),
                    Err(error) => assert!(runge_kutta, "{error}"),
                }
            }
        }
    }
}
