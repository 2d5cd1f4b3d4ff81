//! The charts and the custom resource definitions say the same. `QUORATE_WRITE=1` makes the charts' copies anew.
//!
//! - The operator's chart carries crds/ byte for byte.
//! - The cluster chart's values.schema.json is made from the definition's own schema, so a value that the API server would
//!   refuse is refused by Helm too.
//! - The operator's role names every resource there is.

use std::collections::{BTreeMap, BTreeSet};
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

/// The operator's rights are what its calls need and no more: a right without a call is one that only somebody else can use. Whoever adds
/// a call adds its verb here and in the chart; the end-to-end test fails when one is missing.
#[test]
fn the_operators_role_is_no_wider_than_its_calls() {
    let template = text("charts/quorate-operator/templates/_rules.tpl");
    let (_, rules) = template.split_once("{{- define \"operator.rules\" -}}").unwrap();
    let rules: Value = serde_yaml_ng::from_str(rules.split_once("{{- end -}}").unwrap().0).unwrap();
    let mut rights: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in rules.as_array().unwrap() {
        for resource in rule["resources"].as_array().unwrap() {
            let verbs = rule["verbs"].as_array().unwrap().iter().map(|verb| verb.as_str().unwrap().to_string());
            rights.entry(resource.as_str().unwrap().to_string()).or_default().extend(verbs);
        }
    }
    let needed = [
        ("*/finalizers", "update"),
        ("*/status", "update patch"),
        ("certificates", "get create patch"),
        ("configmaps", "get list watch create patch"),
        ("deployments", "get create patch delete"),
        ("events", "create patch"),
        ("jobs", "get list watch create delete"),
        ("networkpolicies", "get create patch delete"),
        ("persistentvolumeclaims", "get list watch create patch delete"),
        ("poddisruptionbudgets", "get create patch delete"),
        ("pods", "get list watch patch delete"),
        ("quoratebackups", "get list watch create patch delete"),
        ("quoratebackupschedules", "get list watch"),
        ("quoratebackupstores", "get list watch"),
        ("quorateclusters", "get list watch"),
        ("quoraterestores", "get list watch"),
        ("quoratetasks", "get list watch"),
        ("secrets", "get list watch create update"),
        ("serviceaccounts", "get create patch"),
        ("services", "get list watch create patch"),
        ("statefulsets", "get list watch create patch"),
    ];
    let needed = needed.map(|(resource, verbs)| (resource.to_string(), verbs.split(' ').map(str::to_string).collect()));
    assert_eq!(rights, BTreeMap::from(needed));
}

/// Builds of the image for several platforms run side by side, so each has its own folder of what was compiled.
#[test]
fn the_image_is_built_apart_for_each_platform() {
    let dockerfile = text("Dockerfile");
    let compiled: Vec<_> = dockerfile.lines().filter(|line| line.contains("target=/src/target")).collect();
    assert!(!compiled.is_empty() && compiled.iter().all(|line| line.contains("id=quorate-target-$TARGETPLATFORM")), "{compiled:?}");
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
    if from.get("format") == Some(&json!("date-time")) {
        to.insert("pattern".to_string(), json!(TIME));
    }
    for rule in from.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let rule = rule["rule"].as_str().unwrap();
        // What a value was before is the API server's to judge.
        if rule.contains("oldSelf") {
            continue;
        }
        let more = judged_beforehand(rule).unwrap_or_else(|| panic!("a rule that values.schema.json cannot tell: {rule}"));
        let list = to.entry("allOf").or_insert_with(|| json!([])).as_array_mut().unwrap();
        list.push(more);
    }
    Value::Object(to)
}

/// A point in time, as the API server takes it.
const TIME: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$";
/// An amount above nothing.
const AMOUNT: &str = r"^[+]?[0-9.]*[1-9][0-9.]*([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$";

/// What a rule of the definition's is in a JSON schema.
fn judged_beforehand(rule: &str) -> Option<Value> {
    let within = |start: &str, end: &str| rule.strip_prefix(start)?.strip_suffix(end);
    let field = |text: &str| text.strip_prefix("has(self.").and_then(|rest| rest.strip_suffix(')')).map(str::to_string);
    if let Some(pattern) = within("self.matches('", "')") {
        return Some(json!({"pattern": pattern}));
    }
    if let Some(pattern) = within("self.all(arg, !arg.matches('", "'))") {
        return Some(json!({"items": {"not": {"pattern": pattern}}}));
    }
    if let Some(values) = within("self in ", "") {
        return Some(json!({"enum": serde_json::from_str::<Value>(values).ok()?}));
    }
    // Of a mode and the field that it needs and no other has.
    if let Some((mode, needed)) = rule.strip_prefix("(self.mode == '").and_then(|rest| rest.split_once("') == ")) {
        let needed = field(needed)?;
        return Some(json!({
            "if": {"properties": {"mode": {"const": mode}}, "required": ["mode"]},
            "then": {"required": [needed]},
            "else": {"not": {"required": [needed]}},
        }));
    }
    if let Some((one, other)) = rule.split_once(" || ") {
        let (one, other) = (field(one.strip_prefix('!')?)?, field(other.strip_prefix('!')?)?);
        return Some(json!({"not": {"required": [one, other]}}));
    }
    Some(match rule {
        "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))" => json!({"pattern": AMOUNT}),
        "has(self.restore) != (has(self.fromVolumes) && self.fromVolumes)" => json!({"oneOf": [
            {"required": ["restore"]},
            {"properties": {"fromVolumes": {"const": true}}, "required": ["fromVolumes"]},
        ]}),
        "has(self.backupRef) != (has(self.storeRef) && has(self.location)) && has(self.storeRef) == has(self.location)" => {
            json!({"oneOf": [
                {"required": ["backupRef"], "not": {"anyOf": [{"required": ["storeRef"]}, {"required": ["location"]}]}},
                {"required": ["storeRef", "location"], "not": {"required": ["backupRef"]}},
            ]})
        }
        _ => {
            let (one, other) = rule.split_once(" != ")?;
            json!({"oneOf": [{"required": [field(one)?]}, {"required": [field(other)?]}]})
        }
    })
}

/// What a cluster's name looks like, by the definition's own rule.
fn cluster_name(definition: &Value) -> String {
    let rules = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"];
    let rule = rules.as_array().unwrap().iter().find_map(|rule| rule["rule"].as_str()?.split_once("self.metadata.name.matches('^"));
    rule.unwrap().1.strip_suffix("$')").unwrap().to_string()
}

/// A release's name becomes the cluster's, and no schema sees it.
#[test]
fn the_cluster_chart_judges_names() {
    let template = text("charts/quorate-cluster/templates/cluster.yaml");
    let pattern = cluster_name(&definition("quorateclusters.yaml"));
    assert!(template.contains(&format!("\"^{pattern}$\"")), "{pattern}");
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
        json!("Values of the chart quorate-cluster: the spec of a QuorateCluster, and four of the chart's own"),
    );
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let properties = map["properties"].as_object_mut().unwrap();
    for (name, own) in [
        ("nameOverride", json!({"type": "string", "maxLength": 40, "pattern": format!("^({})?$", cluster_name(&definition))})),
        ("labels", strings.clone()),
        ("annotations", strings),
        ("keep", json!({"type": "boolean"})),
        ("global", json!({"type": "object"})),
    ] {
        assert!(properties.insert(name.to_string(), own).is_none(), "{name} is a field of the spec and of the chart");
    }
    is_fresh("charts/quorate-cluster/values.schema.json", &format!("{schema:#}\n"));
}
