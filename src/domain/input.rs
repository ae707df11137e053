//! A prediction's `input`, typed and validated against the model's one table of bounds.
//!
//! Every mistake is reported at once, in the words and type codes of Replicate's validator. `null` means absent,
//! `512.0` is an integer, unknown keys are ignored, but for `size` and `aspect_ratio` when nothing else tells the size.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Dimensions, InputTable, Integers, Names, NoiseSource, Numbers, Scheduler, Size, SizeWish, Sizes, Text};

/// One mistake in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Replicate's code, such as `required` or `number_lte`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `input.width`; empty for the body itself.
    pub field: String,
    pub description: String,
}

impl FieldError {
    /// `name` is missing from `parent`.
    pub fn required(parent: &str, name: &str) -> FieldError {
        FieldError { kind: "required", field: parent.to_string(), description: format!("{name} is required") }
    }

    /// `field` has the wrong JSON type.
    pub fn invalid_type(field: &str, expected: &str, given: &Value) -> FieldError {
        let description = format!("Invalid type. Expected: {expected}, given: {}", json_type(given));
        FieldError { kind: "invalid_type", field: field.to_string(), description }
    }

    /// The body has a key that does not belong there.
    pub fn additional_property(name: &str) -> FieldError {
        FieldError {
            kind: "additional_property_not_allowed",
            field: String::new(),
            description: format!("Additional property {name} is not allowed"),
        }
    }
}

/// The name of a JSON value's type.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What to draw. Within the bounds of the table it was read with.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub prompt: String,
    pub negative_prompt: Option<String>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    pub num_outputs: u32,
    pub num_inference_steps: u32,
    pub guidance_scale: f64,
    pub scheduler: Scheduler,
    /// Absent: any. A negative one wraps as torch's `manual_seed` does.
    pub seed: Option<u64>,
    /// Never asked for over HTTP; the command line may.
    pub noise: NoiseSource,
}

impl Input {
    /// Reads `input`, or lists everything that is wrong with it.
    pub fn parse(table: &InputTable, input: &Map<String, Value>) -> Result<Input, Vec<FieldError>> {
        let mut reader = Reader { input, errors: Vec::new() };
        let prompt = reader.text("prompt", &table.prompt).unwrap_or_default();
        let size = reader.size(table);
        let parsed = Input {
            prompt,
            negative_prompt: reader.text("negative_prompt", &table.negative_prompt),
            width: size.width,
            height: size.height,
            num_outputs: reader.integer("num_outputs", &table.num_outputs),
            num_inference_steps: reader.integer("num_inference_steps", &table.num_inference_steps),
            guidance_scale: reader.number("guidance_scale", &table.guidance_scale),
            scheduler: reader.scheduler("scheduler", &table.scheduler),
            seed: reader.seed("seed"),
            noise: NoiseSource::default(),
        };
        reader.errors.extend(parsed.too_costly(table));
        if reader.errors.is_empty() { Ok(parsed) } else { Err(reader.errors) }
    }

    /// The operator's limit on the work of one prediction; fields that were wrong count with their defaults.
    fn too_costly(&self, table: &InputTable) -> Option<FieldError> {
        let limit = table.max_megapixel_steps?;
        let rows = u64::from(self.num_outputs) * u64::from(self.num_inference_steps);
        let work = u64::from(self.width) * u64::from(self.height) * rows;
        (work > limit.saturating_mul(1_000_000)).then(|| FieldError {
            kind: "number_lte",
            field: "input".to_string(),
            description: format!(
                "width x height x num_outputs x num_inference_steps must be less than or equal to {limit} million"
            ),
        })
    }

    /// Why the model refuses to draw this although each field is in bounds: Replicate's predictor fails such a
    /// prediction after creating it.
    pub fn refusal(&self, table: &InputTable) -> Option<String> {
        if u64::from(self.width) * u64::from(self.height) <= u64::from(table.max_pixels) {
            return None;
        }
        let limit = match table.max_pixels {
            786_432 => "1024x768 or 768x1024 pixels".to_string(),
            pixels => format!("{pixels} pixels in all"),
        };
        Some(format!("Maximum size is {limit}, because of memory limits. Please select a lower width or height."))
    }
}

/// Takes fields out of an object and remembers what was wrong; a wrong field reads as its default.
struct Reader<'a> {
    input: &'a Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.input.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&mut self, kind: &'static str, name: &str, description: String) {
        self.errors.push(FieldError { kind, field: format!("input.{name}"), description });
    }

    fn wrong_type(&mut self, name: &str, expected: &str) {
        let given = self.input.get(name).unwrap_or(&Value::Null);
        self.errors.push(FieldError::invalid_type(&format!("input.{name}"), expected, given));
    }

    fn wrong_choice(&mut self, name: &str, values: Vec<Value>) {
        let list: Vec<String> = values.iter().map(Value::to_string).collect();
        self.wrong("enum", name, format!("{name} must be one of the following: {}", list.join(", ")));
    }

    fn text(&mut self, name: &str, rule: &Text) -> Option<String> {
        let text = match self.value(name) {
            None => return rule.default.clone(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => {
                self.wrong_type(name, "string");
                return None;
            }
        };
        if text.chars().count() > rule.max_length {
            let limit = format!("String length must be less than or equal to {}", rule.max_length);
            self.wrong("string_lte", name, limit);
        }
        Some(text)
    }

    /// The picture's size, from the keys that this version has for it or from a wish in other keys.
    fn size(&mut self, table: &InputTable) -> Size {
        let keys: &[&str] = if table.image_dimensions.is_some() { &["image_dimensions"] } else { &["width", "height"] };
        if keys.iter().all(|key| self.value(key).is_none()) {
            let wish = SizeWish::of(self.input);
            return wish.and_then(|w| w.closest(&table.sizes(), table.default_size())).unwrap_or(table.default_size());
        }
        match &table.image_dimensions {
            Some(sizes) => self.one_of_sizes("image_dimensions", sizes),
            None => {
                let height = self.side("height", &table.height);
                Size { width: self.side("width", &table.width), height }
            }
        }
    }

    fn side(&mut self, name: &str, rule: &Sizes) -> u32 {
        let Some(value) = self.value(name) else {
            return rule.default;
        };
        let allowed = rule.allowed();
        match whole(value).and_then(|n| u32::try_from(n).ok()).filter(|n| allowed.contains(n)) {
            Some(side) => side,
            None => {
                self.wrong_choice(name, allowed.into_iter().map(Value::from).collect());
                rule.default
            }
        }
    }

    fn one_of_sizes(&mut self, name: &str, rule: &Dimensions) -> Size {
        let given = self.value(name).and_then(Value::as_str);
        match rule.values.iter().find(|size| given == Some(&size.to_string())) {
            Some(size) => *size,
            None => {
                self.wrong_choice(name, rule.values.iter().map(|size| Value::from(size.to_string())).collect());
                rule.default
            }
        }
    }

    fn scheduler(&mut self, name: &str, rule: &Names) -> Scheduler {
        let Some(value) = self.value(name) else {
            return rule.default;
        };
        match value.as_str().and_then(|name| rule.named(name)) {
            Some(scheduler) => scheduler,
            None => {
                self.wrong_choice(name, rule.values.iter().map(|s| Value::from(rule.spelling(*s))).collect());
                rule.default
            }
        }
    }

    /// A whole number in `min..=max`.
    fn whole(&mut self, name: &str, min: i128, max: i128) -> Option<i128> {
        let value = self.value(name)?;
        let Some(number) = whole(value) else {
            self.wrong_type(name, "integer");
            return None;
        };
        if number < min {
            self.wrong("number_gte", name, format!("Must be greater than or equal to {min}"));
        } else if number > max {
            self.wrong("number_lte", name, format!("Must be less than or equal to {max}"));
        }
        Some(number).filter(|n| (min..=max).contains(n))
    }

    fn integer(&mut self, name: &str, rule: &Integers) -> u32 {
        let number = self.whole(name, rule.min.into(), rule.max.into());
        number.and_then(|n| u32::try_from(n).ok()).unwrap_or(rule.default)
    }

    /// What torch's `manual_seed` takes: any 64 bits, signed or not.
    fn seed(&mut self, name: &str) -> Option<u64> {
        self.whole(name, i64::MIN.into(), u64::MAX.into()).map(|n| n as u64)
    }

    fn number(&mut self, name: &str, rule: &Numbers) -> f64 {
        let Some(value) = self.value(name) else {
            return rule.default;
        };
        let Some(number) = value.as_f64() else {
            self.wrong_type(name, "number");
            return rule.default;
        };
        if number < rule.min {
            self.wrong("number_gte", name, format!("Must be greater than or equal to {}", rule.min));
        } else if number > rule.max {
            self.wrong("number_lte", name, format!("Must be less than or equal to {}", rule.max));
        }
        number
    }
}

/// A JSON number without a fraction, `512.0` included.
fn whole(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    if let Some(n) = number.as_i64() {
        return Some(n.into());
    }
    if let Some(n) = number.as_u64() {
        return Some(n.into());
    }
    number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e30).map(|n| n as i128)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::InputLimits;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<Input, Vec<FieldError>> {
        Input::parse(&InputTable::default(), value.as_object().unwrap())
    }

    fn errors(value: Value) -> Vec<(&'static str, String, String)> {
        parse(value).unwrap_err().into_iter().map(|e| (e.kind, e.field, e.description)).collect()
    }

    #[test]
    fn nothing_is_required_and_null_is_absent() {
        let input = parse(json!({})).unwrap();
        assert_eq!(input.prompt, "a vision of paradise. unreal engine");
        assert_eq!((input.width, input.height, input.num_outputs, input.num_inference_steps), (768, 768, 1, 50));
        assert_eq!((input.guidance_scale, input.scheduler), (7.5, Scheduler::DpmSolverMultistep));
        assert_eq!((input.seed, input.negative_prompt.clone()), (None, None));
        let nulls = json!({"prompt": null, "width": null, "seed": null, "scheduler": null, "guidance_scale": null});
        assert_eq!(parse(nulls).unwrap(), input);
    }

    #[test]
    fn whole_floats_are_integers_and_unknown_keys_are_ignored() {
        let input = parse(json!({"width": 512.0, "num_inference_steps": 2e1, "seed": 7.0, "Size": "1x1"})).unwrap();
        assert_eq!((input.width, input.num_inference_steps, input.seed), (512, 20, Some(7)));
    }

    #[test]
    fn a_wished_size_counts_when_nothing_else_tells_it() {
        let size = |input| parse(input).map(|i| (i.width, i.height)).unwrap();
        assert_eq!(size(json!({"size": "512x640", "aspect_ratio": "1:1", "width": null})), (512, 640));
        assert_eq!(size(json!({"aspect_ratio": "16:9"})), (1024, 576));
        assert_eq!(size(json!({"size": "512x640", "height": 256})), (768, 256));
        assert_eq!(size(json!({"size": "large", "aspect_ratio": 1})), (768, 768));
    }

    #[test]
    fn older_versions_have_other_keys_and_names() {
        let table: InputTable = toml::from_str(
            "image_dimensions = { default = '768x768', values = ['512x512', '768x768'] }
             scheduler = { default = 'KLMS', values = ['DDIM', 'KLMS'], spelled = { KLMS = 'K-LMS' } }",
        )
        .unwrap();
        let parse = |input: Value| Input::parse(&table, input.as_object().unwrap());
        let input = parse(json!({"image_dimensions": "512x512", "scheduler": "K-LMS", "width": "ignored"})).unwrap();
        assert_eq!((input.width, input.height, input.scheduler), (512, 512, Scheduler::Klms));
        assert_eq!(parse(json!({})).unwrap().width, 768);
        assert_eq!(parse(json!({"size": "500x500"})).unwrap().width, 512);
        let wrong = json!({"image_dimensions": "64x64", "scheduler": "KLMS", "prompt_strength": "ignored"});
        let found: Vec<String> = parse(wrong).unwrap_err().into_iter().map(|e| e.description).collect();
        let expected = [
            "image_dimensions must be one of the following: \"512x512\", \"768x768\"",
            "scheduler must be one of the following: \"DDIM\", \"K-LMS\"",
        ];
        assert_eq!(found, expected);
        assert_eq!(parse(json!({"image_dimensions": 512})).unwrap_err()[0].kind, "enum");
    }

    #[test]
    fn the_operator_limits_prompts_and_work() {
        let mut table = InputTable::default();
        table.limit(InputLimits { prompt_chars: Some(3), megapixel_steps: Some(30) });
        let parse = |input: Value| Input::parse(&table, input.as_object().unwrap());
        // 768 x 768 x 50 steps are 29.5 million.
        assert!(parse(json!({"prompt": "äöü"})).is_ok());
        let wrong = parse(json!({"prompt": "four", "num_outputs": 2})).unwrap_err();
        assert_eq!((wrong[0].field.as_str(), wrong[0].kind), ("input.prompt", "string_lte"));
        assert_eq!((wrong[1].field.as_str(), wrong[1].kind), ("input", "number_lte"));
        assert!(wrong[1].description.ends_with("num_inference_steps must be less than or equal to 30 million"));
    }

    #[test]
    fn seeds_wrap_as_torch_does() {
        assert_eq!(parse(json!({"seed": -1})).unwrap().seed, Some(u64::MAX));
        assert_eq!(parse(json!({"seed": u64::MAX})).unwrap().seed, Some(u64::MAX));
        assert_eq!(errors(json!({"seed": 1e25}))[0].0, "number_lte");
        assert_eq!(errors(json!({"seed": -1e25}))[0].0, "number_gte");
        assert_eq!(errors(json!({"seed": 1e300}))[0].0, "invalid_type");
    }

    #[test]
    fn every_mistake_is_named_at_once_in_replicates_words() {
        let found = errors(json!({
            "prompt": 5, "width": 500, "height": "768", "num_outputs": 0, "num_inference_steps": 501,
            "guidance_scale": 0.5, "scheduler": "K-LMS", "seed": "one", "negative_prompt": "x".repeat(10_001),
        }));
        let sizes = "64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024";
        let expected = [
            ("invalid_type", "prompt", "Invalid type. Expected: string, given: integer".to_string()),
            ("enum", "height", format!("height must be one of the following: {sizes}")),
            ("enum", "width", format!("width must be one of the following: {sizes}")),
            ("string_lte", "negative_prompt", "String length must be less than or equal to 10000".to_string()),
            ("number_gte", "num_outputs", "Must be greater than or equal to 1".to_string()),
            ("number_lte", "num_inference_steps", "Must be less than or equal to 500".to_string()),
            ("number_gte", "guidance_scale", "Must be greater than or equal to 1".to_string()),
            (
                "enum",
                "scheduler",
                "scheduler must be one of the following: \"DDIM\", \"K_EULER\", \"DPMSolverMultistep\", \
                 \"K_EULER_ANCESTRAL\", \"PNDM\", \"KLMS\""
                    .to_string(),
            ),
            ("invalid_type", "seed", "Invalid type. Expected: integer, given: string".to_string()),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(k, f, d)| (k, format!("input.{f}"), d)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn fractions_are_no_integers() {
        let found = errors(json!({"num_outputs": 1.5}));
        assert_eq!(found[0].2, "Invalid type. Expected: integer, given: number");
    }

    #[test]
    fn too_many_pixels_fail_as_replicates_predictor_does() {
        let table = InputTable::default();
        assert_eq!(parse(json!({"width": 1024, "height": 768})).unwrap().refusal(&table), None);
        let refused = parse(json!({"width": 1024, "height": 1024})).unwrap().refusal(&table).unwrap();
        assert!(refused.starts_with("Maximum size is 1024x768 or 768x1024 pixels, because of memory limits."));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (0..20u32).prop_map(|n| Value::from(64 * n)),
            ".*".prop_map(Value::from),
            Just(Value::from("K_EULER")),
            "[0-9]{0,11}[x:][0-9]{0,11}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 8, 3, |inner| proptest::collection::vec(inner, 0..3).prop_map(Value::from))
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_in_bounds_and_nothing_panics(
            values in proptest::collection::vec((0..12usize, any_json()), 0..10)
        ) {
            const NAMES: [&str; 12] = ["prompt", "negative_prompt", "width", "height", "num_outputs", "seed", "other",
                "num_inference_steps", "guidance_scale", "scheduler", "size", "aspect_ratio"];
            let object: Map<String, Value> =
                values.into_iter().map(|(name, value)| (NAMES[name].to_string(), value)).collect();
            let table = InputTable::default();
            match Input::parse(&table, &object) {
                Ok(input) => {
                    prop_assert!(input.width % 64 == 0 && (64..=1024).contains(&input.width));
                    prop_assert!((1..=4).contains(&input.num_outputs));
                    prop_assert!((1..=500).contains(&input.num_inference_steps));
                    prop_assert!((1.0..=20.0).contains(&input.guidance_scale));
                    let _ = input.refusal(&table);
                }
                Err(errors) => prop_assert!(errors.iter().all(|e| e.field.starts_with("input."))),
            }
        }
    }
}
