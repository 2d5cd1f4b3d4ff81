//! The charts and the custom resource definitions say the same. `QUORATE_WRITE=1` makes the charts' copies anew.
//!
//! - The operator's chart carries crds/ byte for byte.
//! - The cluster chart's values.schema.json is made from the definition's own schema, so a value that the API server would
//!   refuse is refused by Helm too.
//! - The operator's role names every resource there is.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The file must be this text; it is written when the caller asks for that.
fn is_fresh(path: &str, want: &str) {
    let file = root().join(path);
    if std::env::var_os("QUORATE_WRITE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, want).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == want, "{path} is out of date: run this test with QUORATE_WRITE=1");
}

/// File names under crds/, sorted.
fn definitions() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root().join("crds"))
        .expect("crds/ is there")
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "crds/ holds no definition");
    names
}

fn definition(name: &str) -> Value {
    serde_yaml_ng::from_str(&text(&format!("crds/{name}"))).unwrap()
}

#[test]
fn the_operators_chart_carries_the_definitions() {
    let names = definitions();
    for name in &names {
        let want = text(&format!("crds/{name}"));
        // The template puts its annotation behind this line, and knows no other place.
        assert_eq!(want.lines().filter(|line| *line == "metadata:").count(), 1, "{name}");
        assert!(definition(name)["metadata"]["annotations"].is_null(), "{name} has annotations of its own");
        is_fresh(&format!("charts/quorate-operator/files/crds/{name}"), &want);
    }
    let carried = std::fs::read_dir(root().join("charts/quorate-operator/files/crds")).unwrap().count();
    assert_eq!(carried, names.len(), "charts/quorate-operator/files/crds holds a file that crds/ does not");
}

#[test]
fn the_operators_role_names_every_resource() {
    let rules = text("charts/quorate-operator/templates/_rules.tpl");
    for name in definitions() {
        let plural = definition(&name)["spec"]["names"]["plural"].as_str().unwrap().to_string();
        assert!(rules.contains(&plural), "the role does not name {plural}");
    }
}

/// OpenAPI's schema as JSON schema: Kubernetes' own extensions left out, closed against unknown names.
fn json_schema(schema: &Value) -> Value {
    let Value::Object(from) = schema else { return schema.clone() };
    let mut to = Map::new();
    for (key, value) in from {
        match key.as_str() {
            "properties" => {
                let properties: Map<String, Value> =
                    value.as_object().unwrap().iter().map(|(name, schema)| (name.clone(), json_schema(schema))).collect();
                to.insert(key.clone(), properties.into());
                to.insert("additionalProperties".to_string(), false.into());
            }
            "items" | "additionalProperties" => {
                to.insert(key.clone(), json_schema(value));
            }
            // Helm checks values after its defaults; the API server fills in the rest.
            "required" | "type" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems"
            | "pattern" | "description" | "oneOf" | "anyOf" | "allOf" => {
                to.insert(key.clone(), value.clone());
            }
            "x-kubernetes-int-or-string" => {
                to.insert("type".to_string(), json!(["integer", "string"]));
            }
            // `null` is how Helm's users take a default away, and is never sent.
            _ => {}
        }
    }
    if from.get("nullable") == Some(&Value::Bool(true))
        && let Some(Value::String(kind)) = to.get("type").cloned()
    {
        to.insert("type".to_string(), json!([kind, "null"]));
        if let Some(Value::Array(values)) = to.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
    }
    Value::Object(to)
}

#[test]
fn the_cluster_charts_schema_is_the_definitions() {
    let definition = definition("quorateclusters.yaml");
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut schema = json_schema(spec);
    let map = schema.as_object_mut().unwrap();
    map.remove("description");
    map.insert("$schema".to_string(), json!("http://json-schema.org/draft-07/schema#"));
    map.insert(
        "title".to_string(),
        json!("Values of the chart quorate-cluster: the spec of a QuorateCluster, and three of the chart's own"),
    );
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let properties = map["properties"].as_object_mut().unwrap();
    for (name, own) in [
        ("nameOverride", json!({"type": "string", "maxLength": 40})),
        ("labels", strings.clone()),
        ("annotations", strings),
        ("keep", json!({"type": "boolean"})),
        ("global", json!({"type": "object"})),
    ] {
        assert!(properties.insert(name.to_string(), own).is_none(), "{name} is a field of the spec and of the chart");
    }
    is_fresh("charts/quorate-cluster/values.schema.json", &format!("{schema:#}\n"));
}
