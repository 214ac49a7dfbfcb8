//! The document as YAML: block style, and what could be taken for anything but text in quotes.

use super::node::Node;

/// Short lists of plain words stand on one line of at most so many characters.
const LINE_CHARS: usize = 96;

/// Words that some reader of YAML takes for a truth value or for nothing.
const RESERVED: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// The value as a YAML document.
pub(super) fn write(node: &Node) -> String {
    let mut out = String::new();
    block(node, 0, &mut out);
    out
}

/// A value on lines of its own, each indented by `depth` steps. The first line's indent is there.
fn block(node: &Node, depth: usize, out: &mut String) {
    match node {
        Node::Object(fields) if !fields.is_empty() => {
            for (place, (name, value)) in fields.iter().enumerate() {
                indent(if place == 0 { 0 } else { depth }, out);
                out.push_str(&key(name));
                out.push(':');
                behind(value, depth + 1, out);
            }
        }
        Node::List(items) if !items.is_empty() => {
            for (place, item) in items.iter().enumerate() {
                indent(if place == 0 { 0 } else { depth }, out);
                out.push('-');
                match item {
                    Node::Object(fields) if !fields.is_empty() => {
                        out.push(' ');
                        block(item, depth + 1, out);
                    }
                    other => behind(other, depth + 1, out),
                }
            }
        }
        flat => {
            out.push_str(&scalar(flat));
            out.push('\n');
        }
    }
}

/// A value behind its name or dash.
fn behind(value: &Node, depth: usize, out: &mut String) {
    if let Some(line) = one_line(value, depth) {
        out.push(' ');
        out.push_str(&line);
        out.push('\n');
    } else if let Node::Text(text) = value {
        out.push_str(" |-\n");
        for line in text.split('\n') {
            if !line.is_empty() {
                indent(depth, out);
                out.push_str(line);
            }
            out.push('\n');
        }
    } else {
        out.push('\n');
        indent(depth, out);
        block(value, depth, out);
    }
}

fn one_line(value: &Node, depth: usize) -> Option<String> {
    match value {
        Node::Object(fields) => fields.is_empty().then(|| "{}".to_owned()),
        Node::List(items) => {
            let is_flat = |item: &Node| !matches!(item, Node::Object(_) | Node::List(_));
            let words: Vec<String> = items.iter().map(in_list).collect();
            let line = format!("[{}]", words.join(", "));
            let fits = line.chars().count() + 2 * depth <= LINE_CHARS;
            (items.is_empty() || (fits && items.iter().all(is_flat))).then_some(line)
        }
        Node::Text(text) if text.contains('\n') && is_block_text(text) => None,
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) => Some(scalar(value)),
    }
}

/// Text that a block scalar says as it is.
fn is_block_text(text: &str) -> bool {
    let is_seen = |c: char| c == '\n' || !c.is_control();
    !text.starts_with([' ', '\n']) && !text.ends_with('\n') && text.chars().all(is_seen)
}

fn indent(depth: usize, out: &mut String) {
    out.push_str(&"  ".repeat(depth));
}

fn key(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_/{}.+-$".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '$');
    if begins && name.chars().all(is_plain) && !is_reserved(name) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

fn scalar(node: &Node) -> String {
    match node {
        Node::Text(text) if is_plain(text) => text.clone(),
        Node::Text(text) => quoted(text),
        other => serde_json::to_string(other).expect("it is plain data"),
    }
}

/// Inside of brackets, what separates items needs quotes as well.
fn in_list(node: &Node) -> String {
    match node {
        Node::Text(text) if text.contains([',', '[', ']', '{', '}']) => quoted(text),
        other => scalar(other),
    }
}

fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.chars().any(char::is_control)
        && !is_reserved(text)
}

fn is_reserved(text: &str) -> bool {
    RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi::node::object;

    #[test]
    fn what_could_be_taken_for_something_else_stands_in_quotes() {
        let text = write(&object! {
            "200" => "7",
            "on" => "No",
            "plain" => "a word, and (another) one; `code` too",
            "colon" => "a: b",
            "comment" => "a #b",
            "end" => "a:",
            "empty" => "",
            "number" => 0.5,
            "whole" => 300.0,
            "null" => Node::Null,
            "/runs/{id}" => "{x}",
        });
        let expected = "\"200\": \"7\"\n\"on\": \"No\"\n\
            plain: a word, and (another) one; `code` too\n\
            colon: \"a: b\"\ncomment: \"a #b\"\nend: \"a:\"\nempty: \"\"\nnumber: 0.5\nwhole: 300\n\
            \"null\": null\n/runs/{id}: \"{x}\"\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn values_stand_below_their_names() {
        let text = write(&object! {
            "object" => object! { "inner" => object! { "a" => true } },
            "nothing" => object! {},
            "words" => ["a", "b, c"],
            "none" => Vec::<Node>::new(),
            "long" => ["x".repeat(60), "y".repeat(60)],
            "list" => [object! { "a" => "1", "b" => ["c"] }, object! { "d" => object! { "e" => 1u64 } }],
            "lines" => "one\n\n  two: #\nthree",
        });
        let (long, longer) = ("x".repeat(60), "y".repeat(60));
        let expected = format!(
            "object:\n  inner:\n    a: true\nnothing: {{}}\nwords: [a, \"b, c\"]\nnone: []\n\
             long:\n  - {long}\n  - {longer}\n\
             list:\n  - a: \"1\"\n    b: [c]\n  - d:\n      e: 1\n\
             lines: |-\n  one\n\n    two: #\n  three\n"
        );
        assert_eq!(text, expected);
    }
}
