//! Defaults and bounds of a text-to-image `input`: the only place where they are written. Validation reads it, and so
//! does whoever describes a version to clients.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Scheduler, Size};

/// The keys of an `input` and what they may be. The defaults are those of `stability-ai/stable-diffusion:ac732df8…`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputTable {
    pub prompt: Text,
    pub height: Sizes,
    pub width: Sizes,
    /// Where a version has it, one key instead of `height` and `width`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_dimensions: Option<Dimensions>,
    pub negative_prompt: Text,
    pub num_outputs: Integers,
    pub num_inference_steps: Integers,
    pub guidance_scale: Numbers,
    pub scheduler: Names,
    /// More pixels than this make a prediction fail, as Replicate's predictor does.
    pub max_pixels: u32,
    /// Most width x height x num_outputs x num_inference_steps, in millions; without it, what the bounds above allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_megapixel_steps: Option<u64>,
}

/// A string and its greatest length in characters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Text {
    pub default: Option<String>,
    pub max_length: usize,
}

/// A picture side in pixels: one of `values`, or of `min, min + step, …, max` when there are none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sizes {
    pub default: u32,
    pub min: u32,
    pub max: u32,
    pub step: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<u32>,
}

/// One size out of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dimensions {
    pub default: Size,
    pub values: Vec<Size>,
}

/// A whole number from `min` to `max`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Integers {
    pub default: u32,
    pub min: u32,
    pub max: u32,
}

/// A number from `min` to `max`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    pub default: f64,
    pub min: f64,
    pub max: f64,
}

/// One scheduler out of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Names {
    pub default: Scheduler,
    pub values: Vec<Scheduler>,
    /// The schedulers that this version calls by another name, such as `KLMS = "K-LMS"`.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub spelled: HashMap<Scheduler, String>,
}

/// What the operator allows, whatever the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InputLimits {
    /// Characters of a prompt.
    pub prompt_chars: Option<usize>,
    /// See [`InputTable::max_megapixel_steps`].
    pub megapixel_steps: Option<u64>,
}

/// One key of `input`, for whoever describes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field<'a> {
    pub name: &'static str,
    pub description: &'static str,
    pub rule: Rule<'a>,
}

/// What a key may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule<'a> {
    Text(&'a Text),
    Side(&'a Sizes),
    Dimensions(&'a Dimensions),
    Integer(&'a Integers),
    Number(&'a Numbers),
    Scheduler(&'a Names),
    /// Any integer of 64 bits, signed or not; absent: a random one.
    Seed,
}

impl Default for InputTable {
    fn default() -> Self {
        InputTable {
            prompt: Text { default: Some("a vision of paradise. unreal engine".to_string()), ..Text::default() },
            height: Sizes::default(),
            width: Sizes::default(),
            image_dimensions: None,
            negative_prompt: Text::default(),
            num_outputs: Integers { default: 1, min: 1, max: 4 },
            num_inference_steps: Integers { default: 50, min: 1, max: 500 },
            guidance_scale: Numbers { default: 7.5, min: 1.0, max: 20.0 },
            scheduler: Names::default(),
            max_pixels: 1024 * 768,
            max_megapixel_steps: None,
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Text { default: None, max_length: 10_000 }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { default: 768, min: 64, max: 1024, step: 64, values: Vec::new() }
    }
}

impl Default for Names {
    fn default() -> Self {
        Names { default: Scheduler::DpmSolverMultistep, values: Scheduler::ALL.to_vec(), spelled: HashMap::new() }
    }
}

impl Sizes {
    /// Every permitted side, ascending.
    pub fn allowed(&self) -> Vec<u32> {
        match self.values.is_empty() {
            true => (self.min..=self.max).step_by(self.step.max(1) as usize).collect(),
            false => self.values.clone(),
        }
    }
}

impl Names {
    /// What this version calls a scheduler.
    pub fn spelling(&self, scheduler: Scheduler) -> &str {
        self.spelled.get(&scheduler).map_or(scheduler.name(), String::as_str)
    }

    /// The scheduler that this version calls so.
    pub fn named(&self, name: &str) -> Option<Scheduler> {
        self.values.iter().copied().find(|scheduler| self.spelling(*scheduler) == name)
    }
}

impl InputTable {
    /// The keys in the order in which clients show them.
    pub fn fields(&self) -> Vec<Field<'_>> {
        let field = |name, description, rule| Field { name, description, rule };
        let mut fields = vec![field("prompt", "Input prompt", Rule::Text(&self.prompt))];
        match &self.image_dimensions {
            Some(sizes) => {
                fields.push(field("image_dimensions", "Width and height of the picture", Rule::Dimensions(sizes)))
            }
            None => {
                fields.push(field("height", "Height of the picture in pixels", Rule::Side(&self.height)));
                fields.push(field("width", "Width of the picture in pixels", Rule::Side(&self.width)));
            }
        }
        fields.push(field("negative_prompt", "What the picture should not show", Rule::Text(&self.negative_prompt)));
        fields.extend([
            field("num_outputs", "Number of pictures", Rule::Integer(&self.num_outputs)),
            field("num_inference_steps", "Number of denoising steps", Rule::Integer(&self.num_inference_steps)),
            field("guidance_scale", "Scale of classifier-free guidance", Rule::Number(&self.guidance_scale)),
            field("scheduler", "The scheduler that the picture is denoised with", Rule::Scheduler(&self.scheduler)),
            field("seed", "Random seed. Leave it out for a random one", Rule::Seed),
        ]);
        fields
    }

    /// The size of a picture that nothing is said about.
    pub fn default_size(&self) -> Size {
        match &self.image_dimensions {
            Some(sizes) => sizes.default,
            None => Size { width: self.width.default, height: self.height.default },
        }
    }

    /// Every size that is permitted and will be drawn.
    pub fn sizes(&self) -> Vec<Size> {
        let all = match &self.image_dimensions {
            Some(sizes) => sizes.values.clone(),
            None => {
                let heights = self.height.allowed();
                let row = |width| heights.iter().map(move |&height| Size { width, height });
                self.width.allowed().into_iter().flat_map(row).collect()
            }
        };
        all.into_iter().filter(|size| size.pixels() <= self.max_pixels.into()).collect()
    }

    /// Makes these sides the defaults, as far as they are permitted.
    pub fn prefer_size(&mut self, width: u32, height: u32) {
        for (sides, side) in [(&mut self.width, width), (&mut self.height, height)] {
            if sides.allowed().contains(&side) {
                sides.default = side;
            }
        }
    }

    /// Puts the operator's limits in the place of the model's.
    pub fn limit(&mut self, limits: InputLimits) {
        if let Some(max_length) = limits.prompt_chars {
            self.prompt.max_length = max_length;
            self.negative_prompt.max_length = max_length;
        }
        if limits.megapixel_steps.is_some() {
            self.max_megapixel_steps = limits.megapixel_steps;
        }
    }

    /// Why this is no table.
    pub(super) fn problem(&self) -> Option<String> {
        for (name, sides) in [("width", &self.width), ("height", &self.height)] {
            let allowed = sides.allowed();
            if allowed.iter().any(|side| *side == 0 || side % 8 != 0) {
                return Some(format!("input.{name} allows a size that is not a multiple of 8"));
            }
            if !allowed.contains(&sides.default) {
                return Some(format!("the default of input.{name} is not one of its sizes"));
            }
        }
        if let Some(sizes) = &self.image_dimensions {
            if sizes.values.iter().any(|size| size.width % 8 != 0 || size.height % 8 != 0) {
                return Some("input.image_dimensions allows a size that is not a multiple of 8".to_string());
            }
            if !sizes.values.contains(&sizes.default) {
                return Some("the default of input.image_dimensions is not one of its sizes".to_string());
            }
        }
        for (name, range) in [("num_outputs", &self.num_outputs), ("num_inference_steps", &self.num_inference_steps)] {
            if range.min == 0 || !(range.min..=range.max).contains(&range.default) {
                return Some(format!("the default of input.{name} is outside of its bounds, or its least value is 0"));
            }
        }
        let guidance = &self.guidance_scale;
        if !(guidance.min..=guidance.max).contains(&guidance.default) {
            return Some("the default of input.guidance_scale is outside of its bounds".to_string());
        }
        if !self.scheduler.values.contains(&self.scheduler.default) {
            return Some("the default of input.scheduler is not one of its values".to_string());
        }
        None
    }
}
