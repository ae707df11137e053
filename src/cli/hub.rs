//! The model hub as the environment describes it, and a progress bar for what comes from it.

use indicatif::{ProgressBar, ProgressStyle};

use crate::weights::hub::{HubOptions, Progress};

/// From `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and their kin; offline also when we were told so.
pub fn options(offline: bool) -> HubOptions {
    let options = HubOptions::from_variables(|name| std::env::var(name).ok());
    HubOptions { offline: options.offline || offline, ..options }
}

/// Runs a transfer with a bar on stderr that goes away when it ends.
pub fn with_bar<T>(transfer: impl FnOnce(&mut dyn FnMut(Progress)) -> T) -> T {
    let bar = ProgressBar::no_length();
    let template = "{msg}\n{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut first = true;
    let done = transfer(&mut |progress| {
        // What was here before does not count for the speed.
        if std::mem::take(&mut first) {
            bar.set_position(progress.done);
            bar.reset_eta();
        }
        if bar.message() != progress.file {
            bar.set_message(progress.file.to_string());
        }
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    done
}
