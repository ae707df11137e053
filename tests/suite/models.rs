//! Models, versions and deployments through a real socket.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use stablehand::config::ServeArgs;

use crate::stage::{Setting, Stage, VERSION};

const MODEL: &str = "/v1/models/stability-ai/stable-diffusion";
const OLDER: &str = "db21e45d3f7023abc2a46ee38a23973f6dce16bb082a930b0c49861f96d1e5bf";

async fn stage(args: ServeArgs) -> (tempfile::TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(folder.path(), Setting { args, ..Setting::default() }).await;
    (folder, stage)
}

async fn json_of(answer: reqwest::Result<reqwest::Response>) -> Value {
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

async fn status_and_detail(answer: reqwest::Result<reqwest::Response>) -> (u16, String) {
    let answer = answer.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["detail"].as_str().unwrap().to_string())
}

fn names(page: &Value) -> Vec<&str> {
    assert_eq!((&page["next"], &page["previous"]), (&Value::Null, &Value::Null));
    page["results"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_and_its_versions_are_what_strict_clients_want() {
    let (_folder, stage) = stage(ServeArgs::default()).await;
    stage.create(json!({"width": 64, "height": 64, "num_inference_steps": 1})).await;
    let model = json_of(stage.get("/v1/models/Stability-AI/stable-diffusion").send().await).await;
    assert_eq!((&model["owner"], &model["name"]), (&json!("stability-ai"), &json!("stable-diffusion")));
    assert_eq!(model["url"], format!("{}{MODEL}", stage.url));
    assert_eq!((&model["visibility"], &model["run_count"]), (&json!("public"), &json!(1)));
    assert_eq!((&model["default_example"], &model["github_url"]), (&Value::Null, &Value::Null));
    assert!(model["description"].as_str().unwrap().contains("stablehand/shapes stands in for it"));
    assert_eq!(model["latest_version"]["id"], VERSION);

    let versions = json_of(stage.get(&format!("{MODEL}/versions")).send().await).await;
    let versions = versions["results"].as_array().unwrap();
    assert_eq!(versions[0], model["latest_version"]);
    assert!(versions.len() > 5 && versions.iter().any(|version| version["id"] == OLDER));
    for version in versions {
        let id = version["id"].as_str().unwrap();
        assert_eq!(&json_of(stage.get(&format!("{MODEL}/versions/{id}")).send().await).await, version);
        assert_eq!(version["cog_version"], "0.9.5");
        version["created_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let schemas = &version["openapi_schema"]["components"]["schemas"];
        assert_eq!(schemas["Input"]["properties"]["prompt"]["x-order"], 0);
        assert_eq!(schemas["Output"]["items"], json!({"type": "string", "format": "uri"}));
    }
    let readme = stage.get(&format!("{MODEL}/readme")).send().await.unwrap();
    assert!(readme.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert!(readme.text().await.unwrap().starts_with("# stability-ai/stable-diffusion\n"));
    assert!(names(&json_of(stage.get(&format!("{MODEL}/examples")).send().await).await).is_empty());

    let unknown = status_and_detail(stage.get(&format!("{MODEL}/versions/0000")).send().await).await;
    assert_eq!(unknown, (404, "Not found.".to_string()));
    for path in ["/v1/models/a/b", "/v1/models/a/b/versions", "/v1/models/a/b/readme", "/v1/models/a/b/examples"] {
        let (status, detail) = status_and_detail(stage.get(path).send().await).await;
        assert_eq!((status, detail.as_str()), (404, "The requested resource could not be found."), "{path}");
    }
    stage.stop().await;
}

/// The reconstruction of Replicate's schema lies beside the project, which does not carry it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_versions_schema_is_replicates() {
    let file = "../shared/replicate/openapi-schema-stable-diffusion-ac732df8.reconstructed.json";
    let Ok(text) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)) else {
        eprintln!("NOT TESTED: the default version's schema against Replicate's: {file} is not there");
        return;
    };
    let (_folder, stage) = stage(ServeArgs::default()).await;
    let ours = json_of(stage.get(&format!("{MODEL}/versions/{VERSION}")).send().await).await;
    let bare = |schema: &Value| {
        let mut schemas = schema["components"]["schemas"].clone();
        for property in schemas["Input"]["properties"].as_object_mut().unwrap().values_mut() {
            let property = property.as_object_mut().unwrap();
            // Our words and our limit.
            property.remove("description");
            property.remove("maxLength");
        }
        ["Input", "Output", "width", "height", "scheduler", "Status", "WebhookEvent"].map(|name| schemas[name].clone())
    };
    let theirs: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bare(&ours["openapi_schema"]), bare(&theirs));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_listed_and_found() {
    let (_folder, stage) = stage(ServeArgs::default()).await;
    let get = async |path: &str| json_of(stage.get(path).send().await).await;
    assert_eq!(names(&get("/v1/models").await), ["shapes", "stable-diffusion"]);
    let ascending = get("/v1/models?sort_by=model_created_at&sort_direction=asc").await;
    assert_eq!(names(&ascending), ["stable-diffusion", "shapes"]);
    let query = async |body: &str| {
        let method = Method::from_bytes(b"QUERY").unwrap();
        let request = stage.client.request(method, format!("{}/replicate/v1/models", stage.url));
        json_of(request.header("content-type", "text/plain").body(body.to_string()).send().await).await
    };
    assert_eq!(names(&query("").await).len(), 2);
    for stable in ["Stable diffusion", "\"768 STABLE\"", " sd-2.1\n"] {
        assert_eq!(names(&query(stable).await), ["stable-diffusion"], "{stable}");
    }
    assert!(names(&query("\"nothing of the kind\"").await).is_empty());

    let found = get("/v1/search?query=coloured+shapes").await;
    assert_eq!(found["query"], "coloured shapes");
    assert_eq!(found["models"][0]["model"]["name"], "shapes");
    assert_eq!(found["collections"][0]["models"], json!(["stablehand/shapes"]));
    assert_eq!(get("/v1/search?query=text-to-image&limit=1").await["models"].as_array().unwrap().len(), 1);
    assert_eq!(get("/v1/search?query=api").await["pages"][0]["href"], "/docs");
    let collection = get("/v1/collections/text-to-image").await;
    assert_eq!(collection["models"].as_array().unwrap().len(), 2);
    assert_eq!(get("/v1/collections").await["results"][0]["slug"], "text-to-image");
    assert_eq!(get("/v1/hardware").await, json!([{"name": "CPU", "sku": "cpu"}]));
    assert_eq!(get("/v1/account").await["type"], "user");

    let wrong = [
        ("/v1/models?sort_by=name", "sort_by"),
        ("/v1/models?sort_direction=up", "sort_direction"),
        ("/v1/search", "query"),
        ("/v1/search?query=+", "query"),
        ("/v1/search?query=a&limit=51", "limit"),
        ("/v1/search?query=a&limit=many", "limit"),
    ];
    for (path, parameter) in wrong {
        let (status, detail) = status_and_detail(stage.get(path).send().await).await;
        assert!(status == 400 && detail.contains(&format!("\"{parameter}\"")), "{path}: {status} {detail}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replicate_has_and_we_have_not_is_not_found() {
    let (_folder, stage) = stage(ServeArgs::default()).await;
    let version = format!("{MODEL}/versions/{VERSION}");
    let deployment = "/v1/deployments/stability-ai/stable-diffusion";
    let requests = [
        ("POST", "/v1/models"),
        ("PATCH", MODEL),
        ("DELETE", MODEL),
        ("DELETE", &version),
        ("POST", "/v1/deployments"),
        ("PATCH", deployment),
        ("DELETE", deployment),
        ("GET", "/v1/trainings"),
        ("GET", "/v1/deployments/a/b"),
        ("GET", "/v1/collections/none"),
    ];
    for (method, path) in requests {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = stage.client.request(method.clone(), format!("{}{path}", stage.url));
        let (status, detail) = status_and_detail(request.send().await).await;
        assert_eq!((status, detail.as_str()), (404, "The requested resource could not be found."), "{method} {path}");
    }
    let put = stage.client.put(format!("{}/v1/models", stage.url)).send().await;
    assert_eq!(status_and_detail(put).await.0, 405);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_model_is_a_deployment() {
    let (_folder, stage) = stage(ServeArgs::default()).await;
    let path = "/v1/deployments/stability-ai/stable-diffusion";
    let deployment = json_of(stage.get(path).send().await).await;
    let release = &deployment["current_release"];
    assert_eq!((&release["model"], &release["version"]), (&json!("stability-ai/stable-diffusion"), &json!(VERSION)));
    assert_eq!(release["configuration"], json!({"hardware": "cpu", "min_instances": 1, "max_instances": 1}));
    let page = json_of(stage.get("/v1/deployments").send().await).await;
    assert_eq!(names(&page), ["shapes", "stable-diffusion"]);
    assert_eq!(page["results"][1], deployment);

    let input = json!({"width": 64, "height": 64, "num_inference_steps": 1});
    let answer = stage.post(&format!("{path}/predictions"), &json!({"input": input})).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let created: Value = answer.json().await.unwrap();
    let asked = json!("stability-ai/stable-diffusion");
    assert_eq!((&created["deployment"], &created["model"], &created["version"]), (&asked, &asked, &json!(VERSION)));
    let done = stage.until_finished(&created["id"]).await;
    assert_eq!((&done["status"], &done["deployment"]), (&json!("succeeded"), &asked));
    assert_eq!(stage.create(input).await.get("deployment"), None);
    let body = json!({"version": VERSION, "input": {}});
    let wrong = stage.post(&format!("{path}/predictions"), &body).send().await;
    assert_eq!(status_and_detail(wrong).await, (422, "- Additional property version is not allowed\n".to_string()));
    let unknown = stage.post("/v1/deployments/a/b/predictions", &json!({"input": {}})).send().await;
    assert_eq!(status_and_detail(unknown).await.0, 404);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_versions_and_wished_sizes_are_drawn() {
    let (_folder, stage) = stage(ServeArgs::default()).await;
    let size = async |version: &str, mut input: Value| {
        input["num_inference_steps"] = json!(1);
        let body = json!({"version": version, "input": input});
        let request = stage.post("/v1/predictions", &body).header("prefer", "wait");
        let done: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!((&done["status"], &done["input"]), (&json!("succeeded"), &input), "{done}");
        let picture =
            stage.client.get(done["output"][0].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap();
        let picture = image::load_from_memory(&picture).unwrap();
        format!("{}x{}", picture.width(), picture.height())
    };
    assert_eq!(size(OLDER, json!({"image_dimensions": "512x512"})).await, "512x512");
    assert_eq!(size(OLDER, json!({"width": 64})).await, "768x768");
    // What the Vercel AI SDK sends.
    assert_eq!(size(VERSION, json!({"size": "512x320", "num_outputs": 1})).await, "512x320");
    assert_eq!(size(VERSION, json!({"aspect_ratio": "16:9"})).await, "1024x576");
    let takes_an_image = "8abccf52e7cba9f6e82317253f4a3549082e966db5584e92c808ece132037776";
    let unknown = stage.post("/v1/predictions", &json!({"version": takes_an_image, "input": {}})).send().await;
    assert_eq!(status_and_detail(unknown).await.0, 422);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_limits_and_keys_hold() {
    let args = ServeArgs {
        api_key: vec!["sesame".to_string()],
        max_prompt_chars: Some("20".to_string()),
        max_megapixel_steps: Some("10".to_string()),
        ..ServeArgs::default()
    };
    let (_folder, stage) = stage(args).await;
    let with_key = |request: reqwest::RequestBuilder| request.header("authorization", "Bearer sesame").send();
    let body = json!({"version": VERSION, "input": {"prompt": "x".repeat(21), "negative_prompt": "é".repeat(20)}});
    let (status, detail) = status_and_detail(with_key(stage.post("/v1/predictions", &body)).await).await;
    let expected = "- input.prompt: String length must be less than or equal to 20\n- input: width x height x \
                    num_outputs x num_inference_steps must be less than or equal to 10 million\n";
    assert_eq!((status, detail.as_str()), (422, expected));
    let body = json!({"version": VERSION, "input": {"width": 64, "height": 64, "prompt": "short"}});
    assert_eq!(with_key(stage.post("/v1/predictions", &body)).await.unwrap().status(), 201);
    let version = with_key(stage.get(&format!("{MODEL}/versions/{VERSION}"))).await;
    let prompt = &json_of(version).await["openapi_schema"]["components"]["schemas"]["Input"]["properties"]["prompt"];
    assert_eq!(prompt["maxLength"], 20);

    for path in [MODEL, "/v1/models", "/v1/account", "/v1/hardware", "/v1/search?query=a", "/v1/deployments"] {
        assert_eq!(status_and_detail(stage.get(path).send().await).await.0, 401, "{path}");
    }
    let query = stage.client.request(Method::from_bytes(b"QUERY").unwrap(), format!("{}/v1/models", stage.url));
    assert_eq!(status_and_detail(query.body("sd").send().await).await.0, 401);
    for path in ["/openapi.json", "/docs"] {
        assert_eq!(stage.get(path).send().await.unwrap().status(), 200, "{path}");
    }
    stage.stop().await;
}
