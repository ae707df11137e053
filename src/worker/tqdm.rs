//! A progress bar as tqdm prints it: clients read progress from these lines.

use std::time::Duration;

const CELLS: usize = 10;
const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// One line, without its end: percentage, bar, count, time and rate after `done` of `total` steps.
pub fn line(done: usize, total: usize, elapsed: Duration) -> String {
    let total = total.max(1);
    let seconds = elapsed.as_secs_f64();
    let rate = if done > 0 && seconds > 0.0 { Some(done as f64 / seconds) } else { None };
    let remaining = rate.map_or("?".to_string(), |rate| clock(total.saturating_sub(done) as f64 / rate));
    format!(
        "{:3.0}%|{}| {done}/{total} [{}<{remaining}, {}]",
        100.0 * done as f64 / total as f64,
        bar(done, total),
        clock(seconds),
        speed(rate),
    )
}

fn bar(done: usize, total: usize) -> String {
    let eighths = (CELLS * 8 * done / total).min(CELLS * 8);
    let mut bar = "█".repeat(eighths / 8);
    if eighths < CELLS * 8 {
        bar.push(PARTS[eighths % 8]);
        bar.push_str(&" ".repeat(CELLS - 1 - eighths / 8));
    }
    bar
}

fn clock(seconds: f64) -> String {
    let whole = seconds as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes:02}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

fn speed(rate: Option<f64>) -> String {
    match rate {
        None => "?it/s".to_string(),
        Some(rate) if rate < 1.0 => format!("{:5.2}s/it", 1.0 / rate),
        Some(rate) => format!("{rate:5.2}it/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tqdms() {
        let at = |done, total, millis| line(done, total, Duration::from_millis(millis));
        assert_eq!(at(0, 50, 0), "  0%|          | 0/50 [00:00<?, ?it/s]");
        assert_eq!(at(1, 50, 637), "  2%|▏         | 1/50 [00:00<00:31,  1.57it/s]");
        assert_eq!(at(25, 50, 1510), " 50%|█████     | 25/50 [00:01<00:01, 16.56it/s]");
        assert_eq!(at(50, 50, 3538), "100%|██████████| 50/50 [00:03<00:00, 14.13it/s]");
        assert_eq!(at(7, 20, 14_000), " 35%|███▌      | 7/20 [00:14<00:26,  2.00s/it]");
        assert_eq!(at(1, 500, 20_000), "  0%|          | 1/500 [00:20<2:46:20, 20.00s/it]");
        assert_eq!(at(49, 50, 49_000), " 98%|█████████▊| 49/50 [00:49<00:01,  1.00it/s]");
        assert_eq!(at(2, 1, 1000), "200%|██████████| 2/1 [00:01<00:00,  2.00it/s]");
    }
}
