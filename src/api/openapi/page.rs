//! The OpenAPI document as one page of HTML: no script and nothing from elsewhere.

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Map, Value};

use super::build;
use crate::api::ApiState;
use crate::api::problem::Problem;

const STYLE: &str = include_str!("page.css");

/// The page runs nothing and loads nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// `GET /docs`
pub async fn reference(State(state): State<ApiState>) -> Result<Response, Problem> {
    let document = build(&state.catalog).map_err(Problem::internal)?;
    let page = Html(Page { document: &document }.render());
    Ok(([(header::CONTENT_SECURITY_POLICY, POLICY)], page).into_response())
}

struct Page<'a> {
    document: &'a Value,
}

/// A method and a path with what the document says of them.
struct Operation<'a> {
    method: String,
    path: &'a str,
    about: &'a Value,
}

impl<'a> Page<'a> {
    fn render(&self) -> String {
        let title = prose(&self.document["info"]["title"]);
        let mut navigation = String::new();
        let mut sections = String::new();
        for tag in items(&self.document["tags"]) {
            let name = prose(&tag["name"]);
            let operations = self.operations(&tag["name"]);
            let links: String = operations.iter().map(Operation::link).collect();
            navigation.push_str(&format!("<h2>{name}</h2><ul>{links}</ul>"));
            let operations: String = operations.iter().map(|operation| self.operation(operation)).collect();
            sections.push_str(&format!("<h2>{name}</h2><p>{}</p>{operations}", prose(&tag["description"])));
        }
        let schemas: String =
            entries(&self.document["components"]["schemas"]).map(|(name, s)| self.schema(name, s)).collect();
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title} API</title><style>{STYLE}</style></head>\
             <body><nav aria-label=\"Operations\"><p><strong>{title}</strong> {version}</p>{navigation}\
             <h2><a href=\"#schemas\">Schemas</a></h2></nav>\
             <main><h1>{title} API</h1><p>{summary}. {description}</p>\
             <p>Requests bring a key as <code>Authorization: Bearer KEY</code>, unless the server has none. The same to \
             machines: <a href=\"openapi.json\">openapi.json</a>.</p>\
             {sections}<h2 id=\"schemas\">Schemas</h2>{schemas}</main></body></html>\n",
            version = prose(&self.document["info"]["version"]),
            summary = prose(&self.document["info"]["summary"]),
            description = prose(&self.document["info"]["description"]),
        )
    }

    fn operations(&self, tag: &Value) -> Vec<Operation<'a>> {
        let of_path = |(path, item): (&'a String, &'a Value)| {
            entries(item).map(move |(method, about)| Operation {
                method: method.trim_start_matches("x-").to_uppercase(),
                path,
                about,
            })
        };
        let all = entries(&self.document["paths"]).flat_map(of_path);
        all.filter(|operation| items(&operation.about["tags"]).any(|t| t == tag)).collect()
    }

    fn operation(&self, operation: &Operation<'_>) -> String {
        let Operation { method, path, about } = operation;
        let id = text(&about["operationId"]);
        let parameters: String = items(&about["parameters"]).map(|p| self.parameter(self.resolve(p))).collect();
        let parameters = table(&["Parameter", "In", "Type", ""], &parameters);
        let body = match about.get("requestBody") {
            Some(body) => format!("<h4>Body</h4>{}", self.content(&body["content"])),
            None => String::new(),
        };
        let responses: String =
            entries(&about["responses"]).map(|(code, r)| self.response(code, self.resolve(r))).collect();
        format!(
            "<section id=\"{id}\"><h3><code class=\"{lower}\">{method}</code> <code>{path}</code></h3>\
             <p><strong>{summary}.</strong> {description}</p>{parameters}{body}<h4>Answers</h4>{responses}</section>",
            lower = method.to_lowercase(),
            path = escape(path),
            summary = prose(&about["summary"]),
            description = prose(&about["description"]),
            responses = table(&["Status", "", "Body"], &responses),
        )
    }

    fn parameter(&self, parameter: &Value) -> String {
        let required = if parameter["required"] == true { " <em>required</em>" } else { "" };
        format!(
            "<tr><td><code>{}</code>{required}</td><td>{}</td><td>{}</td><td>{}{}</td></tr>",
            text(&parameter["name"]),
            text(&parameter["in"]),
            self.kind(&parameter["schema"]),
            prose(&parameter["description"]),
            bounds(&parameter["schema"]),
        )
    }

    fn response(&self, code: &str, response: &Value) -> String {
        let (code, about) = (escape(code), prose(&response["description"]));
        format!("<tr><td><code>{code}</code></td><td>{about}</td><td>{}</td></tr>", self.content(&response["content"]))
    }

    /// Media types, each with its schema and example.
    fn content(&self, content: &Value) -> String {
        let one = |(kind, media): (&String, &Value)| {
            let schema = &media["schema"];
            let inner = match schema.get("properties") {
                Some(_) => self.properties(schema),
                None => self.kind(schema),
            };
            let example = match media.get("example") {
                Some(example) => format!("<pre>{}</pre>", escape(&format!("{example:#}"))),
                None => String::new(),
            };
            format!("<p><code>{}</code> {inner}</p>{example}", escape(kind))
        };
        entries(content).map(one).collect()
    }

    fn schema(&self, name: &str, schema: &Value) -> String {
        let name = escape(name);
        let inner = match schema.get("properties") {
            Some(_) => self.properties(schema),
            None => format!("<p>{}</p>", self.kind(schema)),
        };
        let about = prose(&schema["description"]);
        format!("<section id=\"schema-{name}\"><h3><code>{name}</code></h3><p>{about}</p>{inner}</section>")
    }

    fn properties(&self, schema: &Value) -> String {
        let required: Vec<&Value> = items(&schema["required"]).collect();
        let mut properties: Vec<(&String, &Value)> = entries(&schema["properties"]).collect();
        properties.sort_by_key(|(_, property)| property["x-order"].as_u64());
        let row = |(name, property): (&String, &Value)| {
            let mark = if required.iter().any(|r| *r == name) { " <em>required</em>" } else { "" };
            let (kind, about) = (self.kind(property), prose(&property["description"]));
            let name = escape(name);
            format!("<tr><td><code>{name}</code>{mark}</td><td>{kind}</td><td>{about}{}</td></tr>", bounds(property))
        };
        table(&["Key", "Type", ""], &properties.into_iter().map(row).collect::<String>())
    }

    /// What a schema is, in a few words, with links to those that it names.
    fn kind(&self, schema: &Value) -> String {
        if let Some(name) = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next()) {
            let name = escape(name);
            return format!("<a href=\"#schema-{name}\">{name}</a>");
        }
        for combined in ["allOf", "oneOf", "anyOf"] {
            if schema.get(combined).is_some() {
                return items(&schema[combined]).map(|s| self.kind(s)).collect::<Vec<_>>().join(" or ");
            }
        }
        if schema.get("enum").is_some() {
            let values = items(&schema["enum"]).map(|v| format!("<code>{}</code>", escape(&v.to_string())));
            return values.collect::<Vec<_>>().join(" ");
        }
        let names: Vec<&str> = match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        let describe = |name: &&str| match (*name, schema["format"].as_str()) {
            ("array", _) => format!("array of {}", self.kind(&schema["items"])),
            ("object", _) if schema.get("properties").is_some() => self.properties(schema),
            ("string", Some(format)) => escape(format),
            (name, _) => escape(name),
        };
        names.iter().map(describe).collect::<Vec<_>>().join(" or ")
    }

    fn resolve<'v>(&'v self, value: &'v Value) -> &'v Value {
        let target = value["$ref"].as_str().and_then(|to| self.document.pointer(to.trim_start_matches('#')));
        target.unwrap_or(value)
    }
}

impl Operation<'_> {
    fn link(&self) -> String {
        let (id, summary) = (text(&self.about["operationId"]), prose(&self.about["summary"]));
        format!("<li><a href=\"#{id}\">{summary}</a></li>")
    }
}

fn table(head: &[&str], rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: String = head.iter().map(|title| format!("<th scope=\"col\">{title}</th>")).collect();
    format!("<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>")
}

/// Default and limits of a schema, where it has some.
fn bounds(schema: &Value) -> String {
    let named = [("default", "Default"), ("minimum", "Least"), ("maximum", "Most"), ("maxLength", "Most characters")];
    let shown = named.into_iter().filter_map(|(key, name)| {
        schema.get(key).map(|value| format!(" <small>{name}: <code>{}</code></small>", escape(&value.to_string())))
    });
    shown.collect()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

/// Text with its `code` marked up.
fn prose(value: &Value) -> String {
    let text = text(value);
    let pieces = text.split('`').enumerate();
    pieces.map(|(n, piece)| if n % 2 == 1 { format!("<code>{piece}</code>") } else { piece.to_string() }).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn every_operation_and_schema_is_on_the_page_and_every_link_leads_somewhere() {
        let document = example();
        let page = Page { document: &document }.render();
        for (_, item) in entries(&document["paths"]) {
            for (_, operation) in entries(item) {
                assert!(page.contains(&format!("<section id=\"{}\">", text(&operation["operationId"]))));
            }
        }
        assert!(page.contains("<code class=\"query\">QUERY</code>"));
        for link in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(page.contains(&format!("id=\"{link}\"")), "{link}");
        }
        assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("src="));
    }

    #[test]
    fn text_is_no_markup() {
        assert_eq!(prose(&"a <b> `c & d` \"e\"".into()), "a &lt;b&gt; <code>c &amp; d</code> &quot;e&quot;");
    }
}
