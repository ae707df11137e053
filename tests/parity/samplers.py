"""Trajectories of diffusers' own schedulers, to compare sampler plans with.

    python tests/parity/samplers.py --out tests/goldens

Writes samplers.jsonl: for each case a scheduler class made `from_config` of a scheduler file, its timesteps, the scale of
the initial noise, and the samples of a trajectory of 16 numbers with made-up model outputs (`numbers` below, which the
Rust test repeats). Each case is run twice: in f32 as users get it, and with samples, outputs and tables in f64. A combination
that diffusers refuses, or whose result is not finite, is recorded with its error.
"""

import argparse
import json
import logging
import math
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch

SIZE = 16
CLASSES = {
    "DDIM": diffusers.DDIMScheduler,
    "K_EULER": diffusers.EulerDiscreteScheduler,
    "DPMSolverMultistep": diffusers.DPMSolverMultistepScheduler,
    "K_EULER_ANCESTRAL": diffusers.EulerAncestralDiscreteScheduler,
    "PNDM": diffusers.PNDMScheduler,
    "KLMS": diffusers.LMSDiscreteScheduler,
}
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD15 = {**BETAS, "_class_name": "PNDMScheduler", "clip_sample": False, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
SD21 = {**BETAS, "_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction",
        "set_alpha_to_one": False, "steps_offset": 1, "trained_betas": None}
SDXL = {**BETAS, "_class_name": "EulerDiscreteScheduler", "clip_sample": False, "interpolation_type": "linear",
        "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None, "use_karras_sigmas": False}


def numbers(stream, index, size=SIZE):
    """Numbers in [-2, 2) that only integer arithmetic decides: the top 24 bits of a mixed counter."""
    values = []
    for i in range(size):
        x = (stream * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + i * 0x94D049BB133111EB + 1) % 2**64
        for _ in range(2):
            x = (x ^ (x >> 31)) * 0xD6E8FEB86659FD93 % 2**64
        values.append((x >> 40) / 2**22 - 2.0)
    return torch.tensor(values, dtype=torch.float64)


def cases():
    """(name, scheduler, config, steps)"""
    for scheduler in CLASSES:
        for steps in (1, 2, 5, 20, 50, 499):
            for prediction in ("epsilon", "v_prediction", "sample"):
                for spacing in ("leading", "linspace", "trailing"):
                    config = {**BETAS, "clip_sample": False, "prediction_type": prediction, "timestep_spacing": spacing}
                    yield f"{prediction}, {spacing}", scheduler, config, steps
        for steps in (1, 3, 4, 5, 15, 25, 50, 100, 500):
            for name, config in (("SD 1.5", SD15), ("SD 2.1", SD21), ("SDXL", SDXL), ("empty", {})):
                yield name, scheduler, config, steps
    for steps in (2, 10, 25):
        for name, scheduler, change in variants():
            for family in (SD15, SD21) if steps == 10 else (SD15,):
                yield f"{name}, {family['_class_name']}", scheduler, {**family, **change}, steps
    for scheduler in CLASSES:
        for name, change in (("linear betas", {"beta_schedule": "linear"}),
                             ("cosine betas", {"beta_schedule": "squaredcos_cap_v2"}),
                             ("trained betas", {"trained_betas": [0.001 + 0.0002 * i for i in range(100)],
                                                "num_train_timesteps": 100}),
                             ("100 timesteps", {"num_train_timesteps": 100})):
            for steps in (5, 20, 100):
                yield name, scheduler, {**SD15, **change}, steps
        for steps in (999, 1000):
            yield "many", scheduler, SD15, steps


def variants():
    """(name, scheduler, change of the config)"""
    spacings = [{"timestep_spacing": s} for s in ("leading", "linspace", "trailing")]
    for scheduler in CLASSES:
        for offset in (0, 1):
            for one in (False, True):
                for spacing in spacings:
                    change = {"steps_offset": offset, "set_alpha_to_one": one, "skip_prk_steps": False, **spacing}
                    yield f"offset {offset}, alpha {one}, {spacing['timestep_spacing']}", scheduler, change
        yield "zero snr", scheduler, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        for sigmas in ("karras", "exponential", "beta"):
            yield f"{sigmas} sigmas", scheduler, {f"use_{sigmas}_sigmas": True}
            yield f"{sigmas} ends", scheduler, {f"use_{sigmas}_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0}
        yield "sigma_min", scheduler, {"final_sigmas_type": "sigma_min"}
        yield "thresholding", scheduler, {"thresholding": True}
        yield "unknown prediction", scheduler, {"prediction_type": "flow_prediction"}
    for clip in (0.5, 1.0, 2.0):
        yield f"clip {clip}", "DDIM", {"clip_sample": True, "clip_sample_range": clip}
    yield "continuous", "K_EULER", {"timestep_type": "continuous"}
    yield "log-linear", "K_EULER", {"interpolation_type": "log_linear"}
    for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis"):
        for order in (1, 2, 3):
            for kind in ("midpoint", "heun", "bh2"):
                for final in ("zero", "sigma_min"):
                    change = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind,
                              "final_sigmas_type": final}
                    yield f"{algorithm} {order} {kind} {final}", "DPMSolverMultistep", change
    dpm = "DPMSolverMultistep"
    yield "euler at final", dpm, {"euler_at_final": True, "final_sigmas_type": "sigma_min"}
    yield "no lower order", dpm, {"lower_order_final": False, "final_sigmas_type": "sigma_min", "solver_order": 3}
    yield "lambda clipped", dpm, {"lambda_min_clipped": -1.5}
    yield "lambda clipped, trailing", dpm, {"lambda_min_clipped": -1.5, "timestep_spacing": "trailing"}
    yield "lu", dpm, {"use_lu_lambdas": True}
    yield "flow", dpm, {"use_flow_sigmas": True}


def run(scheduler, config, steps, dtype, seed):
    """One trajectory: timesteps, scale of the noise, and the samples after each evaluation."""
    sampler = CLASSES[scheduler].from_config(dict(config))
    sampler.set_timesteps(steps)
    timesteps = sampler.timesteps
    for table in ("sigmas", "alphas_cumprod", "final_alpha_cumprod"):
        if hasattr(sampler, table):
            setattr(sampler, table, getattr(sampler, table).to(dtype))
    sigma = float(sampler.init_noise_sigma)
    x = (numbers(seed, 0) * sampler.init_noise_sigma).to(dtype)
    draws = []
    from diffusers.schedulers import scheduling_dpmsolver_multistep as dpm
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral

    def noise(shape, **_):
        draws.append(None)
        return numbers(seed + 1, len(draws)).to(dtype).reshape(shape)

    dpm.randn_tensor = ancestral.randn_tensor = noise
    samples, scales = [], []
    for i, t in enumerate(timesteps):
        scaled = sampler.scale_model_input(x, t)
        scales.append(float((scaled / x)[0]))
        output = numbers(seed + 2, i).to(dtype)
        x = sampler.step(output.reshape(1, 1, 4, 4), t, x.reshape(1, 1, 4, 4)).prev_sample.reshape(SIZE).to(dtype)
        samples.append(x.double().numpy())
    if not all(np.isfinite(s).all() for s in samples):
        raise ArithmeticError("not finite")
    return {"timesteps": timesteps.double().tolist(), "sigma": sigma, "draws": len(draws), "samples": samples,
            "scales": scales}


def digits(values):
    return [float(f"{v:.8g}") for v in values]


def record(seed, name, scheduler, config, steps):
    case = {"name": name, "scheduler": scheduler, "steps": steps, "config": config, "seed": seed}
    try:
        f32 = run(scheduler, config, steps, torch.float32, seed)
    except Exception as error:  # whatever diffusers raises is its refusal
        return {**case, "error": f"{type(error).__name__}: {error}"[:160]}
    f64 = run(scheduler, config, steps, torch.float64, seed)
    count = len(f32["samples"])
    shown = sorted({1, count // 2, count - 1} & set(range(count)))
    if count > 60:  # all that is long is checked by a digest of evenly spaced values
        every = range(0, count, max(1, count // 10))
        timesteps = [[i, f32["timesteps"][i]] for i in every] + [[count - 1, f32["timesteps"][-1]]]
    else:
        timesteps = list(enumerate(f32["timesteps"]))
    return {**case, "evaluations": count, "timesteps": timesteps, "timestep_sum": math.fsum(f32["timesteps"]),
            "init_noise_sigma": f32["sigma"], "draws": f32["draws"],
            "scales": [[i, float(f"{f32['scales'][i]:.7g}")] for i in shown],
            "peak": float(max(np.abs(s).max() for s in f32["samples"])),
            "f32": [[i, digits(f32["samples"][i])] for i in shown[-1:]],
            "f64": [[i, digits(f64["samples"][i])] for i in shown]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    lines = []
    for seed, case in enumerate(cases()):
        lines.append(json.dumps(record(seed, *case), separators=(",", ":")))
    out.mkdir(parents=True, exist_ok=True)
    (out / "samplers.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
