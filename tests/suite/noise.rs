//! Noise equal to torch's: `tests/parity/noise.py` for the CPU generator, published outputs of real GPUs for CUDA's.

use sha2::{Digest, Sha256};
use stablehand::diffusion::noise::NoiseStream;
use stablehand::domain::NoiseSource;

#[test]
fn cpu_noise_is_torchs_to_the_last_bit() {
    let golden: serde_json::Value = serde_json::from_slice(include_bytes!("../goldens/noise.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 45);
    for case in cases {
        let seed = case["seed"].as_str().unwrap();
        let mut stream = NoiseStream::new(NoiseSource::TorchCpu, seed.parse().unwrap());
        for (i, draw) in case["draws"].as_array().unwrap().iter().enumerate() {
            let count = draw["count"].as_u64().unwrap() as usize;
            let values = stream.draw(count);
            assert_eq!(values.len(), count);
            for (value, bits) in values.iter().zip(draw["head"].as_array().unwrap()) {
                assert_eq!(u64::from(value.to_bits()), bits.as_u64().unwrap(), "seed {seed}, draw {i} of {count}");
            }
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(digest, draw["sha256"].as_str().unwrap(), "seed {seed}, draw {i} of {count}");
        }
    }
}

/// What a GPU printed, to as many digits as it printed.
fn assert_printed(values: &[f32], printed: &[f32]) {
    for (value, printed) in values.iter().zip(printed) {
        assert!((value - printed).abs() < 6e-5, "{values:?} is not {printed:?}");
    }
}

#[test]
fn cuda_noise_is_what_gpus_printed() {
    // The docstring of AUTOMATIC1111's modules/rng_philox.py: torch.randn on CUDA, seed 0.
    let seed_0 = [
        -0.924_662_6,
        -0.425_344_15,
        -2.643_845_7,
        0.145_183_88,
        -0.120_866_47,
        -0.579_725_6,
        -0.622_851_2,
        -0.328_387_1,
        -1.074_542_3,
        -0.363_144_07,
        -1.671_050_7,
        2.265_505,
    ];
    let values = NoiseStream::new(NoiseSource::Cuda, 0).draw(12);
    for (value, known) in values.iter().zip(seed_0) {
        assert!((value - known).abs() < 2e-6, "{value} is not {known}");
    }
    // The docstring of flashinfer's logits_processor: seed 42, first draw.
    let printed = [0.1940, 2.1614, -0.1721, 0.8491, -1.9244, 0.6530, -0.6494, -0.8175, 0.5280, -1.2753];
    assert_printed(&NoiseStream::new(NoiseSource::Cuda, 42).draw(10), &printed);
}

#[test]
fn cuda_draws_follow_each_other() {
    // Six draws in a row from seed 42 on a GPU, as printed in a public report on torch._foreach_sub.
    let printed = [
        [0.1940, 2.1614, -0.1721, 0.8491],
        [0.1391, -0.1082, -0.7174, 0.7566],
        [-0.5187, 1.2268, 0.6255, -0.9117],
        [-0.6974, -1.8688, -0.8832, -1.6627],
        [-1.2682, -0.0383, -0.1029, 1.4400],
        [1.4640, -0.3238, 0.7740, 1.5892],
    ];
    let mut stream = NoiseStream::new(NoiseSource::Cuda, 42);
    for draw in printed {
        assert_printed(&stream.draw(4), &draw);
    }
}

#[test]
fn cuda_noise_of_a_batch_is_one_draw() {
    let four = NoiseStream::new(NoiseSource::Cuda, 7).draw(4 * 4 * 64 * 64);
    let one = NoiseStream::new(NoiseSource::Cuda, 7).draw(4 * 64 * 64);
    assert_eq!(four[..one.len()], one);
    assert_ne!(four[one.len()..2 * one.len()], one);
}

#[test]
fn cuda_seeds_use_all_64_bits() {
    let draw = |seed| NoiseStream::new(NoiseSource::Cuda, seed).draw(4);
    assert_ne!(draw(5), draw((1 << 32) + 5));
    assert_ne!(draw(5), draw((1 << 63) + 5));
}

#[test]
fn cuda_threads_take_a_second_normal_beyond_the_grid() {
    // 8 x 4 x 192 x 192 numbers exceed the 221,184 threads of an A100: five rounds and a bit, two Philox blocks.
    let (grid, count) = (108 * 2048, 8 * 4 * 192 * 192);
    let mut stream = NoiseStream::new(NoiseSource::Cuda, 3);
    let large = stream.draw(count);
    let next = stream.draw(16);
    let mut small = NoiseStream::new(NoiseSource::Cuda, 3);
    let first = small.draw(grid);
    assert_eq!(large[..grid], first);
    // The fifth round is the next block's first normal, which a second small draw begins with.
    assert_eq!(large[4 * grid..5 * grid], small.draw(grid));
    assert_eq!(next, small.draw(16));
    let (mean, square) = large.iter().fold((0.0, 0.0), |(m, s), &v| (m + f64::from(v), s + f64::from(v).powi(2)));
    assert!((mean / count as f64).abs() < 0.005 && (square / count as f64 - 1.0).abs() < 0.005);
}
