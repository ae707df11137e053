//! What an OpenAI client asks for, and the predictions that answer it.

use serde_json::{Map, Value};

use super::format::Format;
use super::refusal::Refusal;
use crate::domain::{FieldError, Input, InputTable, Sizes, json_type};

/// OpenAI's own limit; more than a model draws at once become several predictions.
const MOST_PICTURES: u64 = 10;

/// Sides are multiples of this.
const SIDE_STEP: u32 = 16;

/// Inputs of our models that OpenAI does not know and that are passed on, for those who send extra parameters.
const EXTRAS: [&str; 5] = ["negative_prompt", "seed", "guidance_scale", "num_inference_steps", "scheduler"];

/// A request, as far as it can be read without knowing the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub model: Option<String>,
    pub links: bool,
    pub format: Format,
    pub quality: String,
    prompt: String,
    pictures: u32,
    size: String,
    extras: Map<String, Value>,
}

/// One prediction's input, and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub input: Map<String, Value>,
    pub parsed: Input,
}

impl Asked {
    /// Reads a request body.
    pub fn parse(body: &[u8]) -> Result<Asked, Refusal> {
        let json: Value = serde_json::from_slice(body)
            .map_err(|e| Refusal::invalid("body", "invalid_json", format!("The body is not valid JSON: {e}")))?;
        let Value::Object(mut json) = json else {
            let message = format!("The body must be a JSON object, not {}.", json_type(&json));
            return Err(Refusal::invalid("body", "invalid_type", message));
        };
        if json.get("stream").is_some_and(|stream| *stream == Value::Bool(true)) {
            let message = "This server does not stream images here: leave 'stream' out.";
            return Err(Refusal::invalid("stream", "unsupported_value", message));
        }
        let prompt = text(&json, "prompt")?.filter(|prompt| !prompt.trim().is_empty()).ok_or_else(|| {
            Refusal::invalid("prompt", "missing_required_parameter", "Missing required parameter: 'prompt'.")
        })?;
        let compression = number(&json, "output_compression", 0, 100)?;
        Ok(Asked {
            prompt,
            model: text(&json, "model")?,
            pictures: number(&json, "n", 1, MOST_PICTURES)?.unwrap_or(1) as u32,
            size: text(&json, "size")?.unwrap_or_else(|| "auto".to_string()),
            quality: text(&json, "quality")?.unwrap_or_else(|| "auto".to_string()),
            links: choice(&json, "response_format", &[("b64_json", false), ("url", true)])?,
            format: Format::new(choice(&json, "output_format", &Format::NAMES)?, compression.map(|c| c as u8)),
            extras: EXTRAS
                .iter()
                .filter_map(|name| json.remove_entry(*name))
                .filter(|(_, value)| !value.is_null())
                .collect(),
        })
    }

    /// The predictions that draw this with a model of this table: one, or more when there are many pictures.
    pub fn batches(&self, table: &InputTable) -> Result<Vec<Batch>, Refusal> {
        if self.links && !self.format.is_png() {
            let message = "Pictures behind a URL are png: leave 'output_format' out, or ask for 'b64_json'.";
            return Err(Refusal::invalid("output_format", "unsupported_value", message));
        }
        let (width, height) = self.size(table)?;
        let mut input = Map::from_iter([("prompt".to_string(), Value::from(self.prompt.as_str()))]);
        let mut set = |name: &str, value: u32| input.insert(name.to_string(), value.into());
        set("width", width);
        set("height", height);
        set("num_inference_steps", self.steps(table)?);
        input.extend(self.extras.clone());
        let most = table.num_outputs.max.max(1);
        let calls = self.pictures.div_ceil(most);
        let share = |call: u32| self.pictures * (call + 1) / calls - self.pictures * call / calls;
        (0..calls).map(|call| batch(table, &input, share(call), call)).collect()
    }

    /// Width and height: what was asked for, rounded to the nearest that the model can.
    fn size(&self, table: &InputTable) -> Result<(u32, u32), Refusal> {
        if self.size == "auto" {
            return Ok((table.width.default, table.height.default));
        }
        let wrong = |what: String| {
            Refusal::invalid("size", "invalid_value", format!("Invalid value for 'size': '{}'. {what}", self.size))
        };
        let side = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
            text.parse::<u32>().ok().filter(|side| digits && *side > 0 && side % SIDE_STEP == 0)
        };
        let sides = self.size.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
        let Some((width, height)) = sides else {
            return Err(wrong(format!("It must be 'auto' or WIDTHxHEIGHT, both multiples of {SIDE_STEP}.")));
        };
        let near = |name: &str, side: u32, sizes: &Sizes| {
            let allowed = sizes.allowed();
            let (least, most) = (allowed.iter().min().copied(), allowed.iter().max().copied());
            let fits = least.is_some_and(|least| side >= least) && most.is_some_and(|most| side <= most);
            let nearest = allowed.into_iter().min_by_key(|size| size.abs_diff(side)).filter(|_| fits);
            let range = format!("{} to {}", least.unwrap_or_default(), most.unwrap_or_default());
            nearest.ok_or_else(|| wrong(format!("The {name} of this model's pictures is from {range}.")))
        };
        let width = near("width", width, &table.width)?;
        Ok((width, near("height", height, &table.height)?))
    }

    /// More steps for better quality, around the model's own number.
    fn steps(&self, table: &InputTable) -> Result<u32, Refusal> {
        let rule = &table.num_inference_steps;
        let (times, of) = match self.quality.as_str() {
            "low" => (1, 2),
            "auto" | "standard" | "medium" => (1, 1),
            "high" | "hd" => (2, 1),
            "xhigh" => (3, 1),
            "max" => (4, 1),
            other => {
                let message = format!(
                    "Invalid value for 'quality': '{other}'. It must be one of 'auto', 'low', 'medium', 'high', \
                     'xhigh', 'max', 'standard' and 'hd'."
                );
                return Err(Refusal::invalid("quality", "invalid_value", message));
            }
        };
        Ok((rule.default.saturating_mul(times) / of).clamp(rule.min, rule.max))
    }
}

/// The `call`-th of several predictions: a given seed goes up by one, or they would all draw the same.
fn batch(table: &InputTable, shared: &Map<String, Value>, pictures: u32, call: u32) -> Result<Batch, Refusal> {
    let mut input = shared.clone();
    input.insert("num_outputs".to_string(), pictures.into());
    let parsed = Input::parse(table, &input).map_err(blame)?;
    if let Some(refusal) = parsed.refusal(table) {
        return Err(Refusal::invalid("size", "invalid_value", refusal));
    }
    let seed = parsed.seed.map(|seed| seed.wrapping_add(call.into()));
    if let Some(seed) = seed {
        input.insert("seed".to_string(), seed.into());
    }
    Ok(Batch { input, parsed: Input { seed, ..parsed } })
}

/// The first mistake, under the name that OpenAI's clients know.
fn blame(errors: Vec<FieldError>) -> Refusal {
    let Some(error) = errors.into_iter().next() else { return Refusal::failed("the request cannot be read") };
    let name = error.field.trim_start_matches("input.");
    let param = match name {
        "width" | "height" => "size",
        "num_outputs" => "n",
        other => other,
    };
    Refusal::invalid(param, "invalid_value", format!("Invalid value for '{param}': {}", error.description))
}

fn text(json: &Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match json.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong_type(name, "a string", other)),
    }
}

/// A whole number from `min` to `max`.
fn number(json: &Map<String, Value>, name: &str, min: u64, max: u64) -> Result<Option<u64>, Refusal> {
    let value = match json.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let whole = value.as_f64().filter(|number| number.fract() == 0.0);
    let Some(whole) = whole else { return Err(wrong_type(name, "an integer", value)) };
    match (min as f64..=max as f64).contains(&whole) {
        true => Ok(Some(whole as u64)),
        false => {
            let message = format!("Invalid value for '{name}': {value}. It must be from {min} to {max}.");
            Err(Refusal::invalid(name, "invalid_value", message))
        }
    }
}

/// One of several words; absent, the first one is meant.
fn choice<T: Copy, const N: usize>(
    json: &Map<String, Value>,
    name: &str,
    words: &[(&str, T); N],
) -> Result<T, Refusal> {
    let given = text(json, name)?;
    let mut known = words.iter();
    let found = match &given {
        Some(word) => known.find(|(known, _)| known == word),
        None => known.next(),
    };
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<String> = words.iter().map(|(known, _)| format!("'{known}'")).collect();
        let (given, names) = (given.unwrap_or_default(), names.join(", "));
        let message = format!("Invalid value for '{name}': '{given}'. It must be one of {names}.");
        Refusal::invalid(name, "invalid_value", message)
    })
}

fn wrong_type(name: &str, expected: &str, given: &Value) -> Refusal {
    let message = format!("Invalid type for '{name}': expected {expected}, but got {} instead.", json_type(given));
    Refusal::invalid(name, "invalid_type", message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::response::IntoResponse;
    use proptest::prelude::*;
    use serde_json::json;

    fn asked(body: Value) -> Result<Asked, Refusal> {
        Asked::parse(body.to_string().as_bytes())
    }

    fn inputs(body: Value) -> Result<Vec<Map<String, Value>>, Refusal> {
        let batches = asked(body)?.batches(&InputTable::default())?;
        Ok(batches.into_iter().map(|batch| batch.input).collect())
    }

    fn refused(body: Value) -> String {
        let refusal = inputs(body).unwrap_err();
        assert_eq!(refusal.clone().into_response().status(), 400);
        format!("{refusal:?}")
    }

    #[test]
    fn the_plain_request() {
        let input = &inputs(json!({"prompt": "a cat", "model": null, "user": "u", "style": "vivid"})).unwrap()[0];
        let expected =
            json!({"prompt": "a cat", "width": 768, "height": 768, "num_inference_steps": 50, "num_outputs": 1});
        assert_eq!(Value::from(input.clone()), expected);
        let plain = asked(json!({"prompt": "a cat"})).unwrap();
        assert!(!plain.links && plain.format.is_png() && plain.quality == "auto");
    }

    #[test]
    fn sizes_are_rounded_to_the_models() {
        let size = |size: &str| {
            let input = &inputs(json!({"prompt": "x", "size": size})).unwrap()[0];
            (input["width"].as_u64().unwrap(), input["height"].as_u64().unwrap())
        };
        assert_eq!(size("auto"), (768, 768));
        assert_eq!(size("512x256"), (512, 256));
        assert_eq!(size("720x528"), (704, 512));
        for wrong in [
            "1536x1024",
            "1024x1024",
            "48x64",
            "512",
            "512x",
            "x512",
            "500x512",
            "-64x64",
            "+64x64",
            "64X64",
            "64x64x64",
            "",
        ] {
            assert!(refused(json!({"prompt": "x", "size": wrong})).contains("Some(\"size\")"), "{wrong}");
        }
    }

    #[test]
    fn many_pictures_are_several_predictions() {
        let batches = inputs(json!({"prompt": "x", "n": 10, "seed": 7})).unwrap();
        let counts: Vec<_> = batches.iter().map(|b| (b["num_outputs"].as_u64(), b["seed"].as_u64())).collect();
        assert_eq!(counts, [(Some(3), Some(7)), (Some(3), Some(8)), (Some(4), Some(9))]);
        assert_eq!(inputs(json!({"prompt": "x", "n": 4.0})).unwrap().len(), 1);
    }

    #[test]
    fn quality_is_a_number_of_steps_unless_one_is_given() {
        let steps = |quality: &str| {
            inputs(json!({"prompt": "x", "quality": quality})).unwrap()[0]["num_inference_steps"].clone()
        };
        assert_eq!([steps("low"), steps("medium"), steps("hd"), steps("max")], [25, 50, 100, 200].map(Value::from));
        let given =
            inputs(json!({"prompt": "x", "quality": "low", "num_inference_steps": 3, "scheduler": "DDIM"})).unwrap();
        assert_eq!((&given[0]["num_inference_steps"], &given[0]["scheduler"]), (&json!(3), &json!("DDIM")));
    }

    #[test]
    fn mistakes_name_their_parameter() {
        for (body, param) in [
            (json!({}), "prompt"),
            (json!({"prompt": " "}), "prompt"),
            (json!({"prompt": 5}), "prompt"),
            (json!({"prompt": "x".repeat(10_001)}), "prompt"),
            (json!([]), "body"),
            (json!({"prompt": "x", "n": 0}), "n"),
            (json!({"prompt": "x", "n": 11}), "n"),
            (json!({"prompt": "x", "n": 1.5}), "n"),
            (json!({"prompt": "x", "n": "2"}), "n"),
            (json!({"prompt": "x", "size": 512}), "size"),
            (json!({"prompt": "x", "response_format": "file"}), "response_format"),
            (json!({"prompt": "x", "output_format": "gif"}), "output_format"),
            (json!({"prompt": "x", "output_format": "webp", "response_format": "url"}), "output_format"),
            (json!({"prompt": "x", "output_compression": 101}), "output_compression"),
            (json!({"prompt": "x", "quality": "best"}), "quality"),
            (json!({"prompt": "x", "stream": true}), "stream"),
            (json!({"prompt": "x", "guidance_scale": 100}), "guidance_scale"),
            (json!({"prompt": "x", "seed": "one"}), "seed"),
        ] {
            assert!(refused(body.clone()).contains(&format!("param: Some(\"{param}\")")), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(text in "\\PC{0,40}", size in "[0-9x]{0,12}", n in any::<f64>(), seed in any::<i64>()) {
            let _ = Asked::parse(text.as_bytes());
            if let Ok(batches) = inputs(json!({"prompt": "x", "size": size, "seed": seed})) {
                prop_assert_eq!(batches.len(), 1);
            }
            let _ = inputs(json!({"prompt": text, "n": n}));
        }
    }
}
