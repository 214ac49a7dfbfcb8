//! Generates the client from the 3.0 form of the document, which `RUNLEDGER_OPENAPI` names.

use std::path::Path;
use std::{env, fs};

use serde_json::Value;

fn main() {
    println!("cargo::rerun-if-env-changed=RUNLEDGER_OPENAPI");
    let path = env::var("RUNLEDGER_OPENAPI").expect("tests/clients/run.sh sets it");
    println!("cargo::rerun-if-changed={path}");
    let text = fs::read_to_string(path).expect("it is there");
    let mut document: Value = serde_json::from_str(&text).expect("it is JSON");
    one_answer_each(&mut document);
    let document = serde_json::from_value(document).expect("it is OpenAPI 3.0");
    let mut generator = progenitor::Generator::default();
    let tokens = generator.generate_tokens(&document).expect("a client can be made of it");
    let file = syn::parse2(tokens).expect("it is Rust");
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("runledger.rs");
    fs::write(out, prettyplease::unparse(&file)).expect("it can be written");
}

/// progenitor knows one kind of good answer for an operation: of an operation that answers with a
/// run or with a stream, the run is kept. And it reads what is called JSON, nothing else.
fn one_answer_each(document: &mut Value) {
    for item in document["paths"].as_object_mut().expect("there are paths").values_mut() {
        for operation in item.as_object_mut().expect("it has methods").values_mut() {
            let answers = operation["responses"].as_object_mut().expect("it has answers");
            if answers.contains_key("200") {
                answers.remove("204");
            }
            for answer in answers.values_mut() {
                let content = answer.get_mut("content").and_then(Value::as_object_mut);
                let Some(content) = content else { continue };
                if let Some(problem) = content.remove("application/problem+json") {
                    content.insert("application/json".to_owned(), problem);
                }
                if content.contains_key("application/json") {
                    content.remove("text/event-stream");
                }
            }
        }
    }
}
