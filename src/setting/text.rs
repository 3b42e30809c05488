//! Values as text, as people write them in `--set key=value`.

/// Text as the value it looks like: true or false, an integer, a number, else a string.
#[must_use]
pub fn value_of(text: &str) -> toml::Value {
    let text = text.trim();
    if let Ok(value) = text.parse() {
        toml::Value::Boolean(value)
    } else if let Ok(value) = text.parse() {
        toml::Value::Integer(value)
    } else if let Ok(value) = text.parse() {
        toml::Value::Float(value)
    } else {
        toml::Value::String(text.to_owned())
    }
}

/// The inverse of [`value_of`] for plain values: strings without quotes, shortest exact numbers.
#[must_use]
pub fn text_of(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(value) => value.to_string(),
        other => other.to_string(),
    }
}
