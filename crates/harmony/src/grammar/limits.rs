//! Which schemas are taken at all. llguidance bounds its own work by fuel; these keep it within its stack and memory,
//! which it does not look at.

use std::collections::BTreeSet;

use serde_json::Value;

/// Longest schema, as compact JSON, in bytes. OpenAI's own limit for all names and values in one is 120,000 letters.
const MAX_LEN: usize = 128 << 10;
/// Longest of all schemas of an answer together.
const MAX_TOTAL_LEN: usize = 512 << 10;
/// Arrays and objects within each other.
const MAX_NESTING: usize = 64;
/// The same along the longest way through all that is referred to: schemas are read recursively.
const MAX_WAY: usize = 1500;
/// Largest product of the numbers that values are multiples of, their decimal points taken out: a grammar counts with
/// that many remainders, and with those of all numbers that apply at once.
const MAX_DIVISOR: u64 = 4096;

/// Says why a schema is too large, if it is.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let len = schema.to_string().len();
    if len > MAX_LEN {
        return Err(format!("a schema of {len} bytes is longer than {MAX_LEN}"));
    }
    let mut references = BTreeSet::new();
    let nesting = nesting(schema, &mut references);
    if nesting > MAX_NESTING {
        return Err(format!("{nesting} levels are more than {MAX_NESTING}"));
    }
    let mut divisors = BTreeSet::new();
    find_divisors(schema, &mut divisors);
    let product =
        divisors.iter().try_fold(1, |product: u64, divisor| product.checked_mul(*divisor));
    if product.is_none_or(|product| product > MAX_DIVISOR) {
        return Err(format!(
            "the digits of multipleOf give more than {MAX_DIVISOR} when multiplied"
        ));
    }
    let way = references.iter().filter_map(|reference| {
        let target = schema.pointer(reference.strip_prefix('#')?)?;
        Some(self::nesting(target, &mut BTreeSet::new()))
    });
    let way = nesting + way.sum::<usize>();
    if way > MAX_WAY {
        let problem = "levels, those of all that is referred to included, are more than";
        return Err(format!("{way} {problem} {MAX_WAY}"));
    }
    Ok(())
}

/// Says whether all schemas of an answer are too large together.
pub(super) fn check_total(len: usize) -> Result<(), String> {
    if len > MAX_TOTAL_LEN {
        return Err(format!("schemas of {len} bytes together are longer than {MAX_TOTAL_LEN}"));
    }
    Ok(())
}

/// The digits of every `multipleOf`, without a decimal point.
fn find_divisors(value: &Value, divisors: &mut BTreeSet<u64>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| find_divisors(value, divisors)),
        Value::Object(members) => {
            if let Some(Value::Number(number)) = members.get("multipleOf") {
                // With an exponent, too many digits, or none: the product refuses it.
                let digits = number.to_string().replace(['.', '-'], "").parse();
                divisors.insert(digits.unwrap_or(u64::MAX));
            }
            members.values().for_each(|value| find_divisors(value, divisors));
        }
        _ => {}
    }
}

/// Levels of arrays and objects, and what is referred to in them. The reader of JSON bounds how deep this goes.
fn nesting<'a>(value: &'a Value, references: &mut BTreeSet<&'a str>) -> usize {
    let inner: &mut dyn Iterator<Item = &'a Value> = match value {
        Value::Array(values) => &mut values.iter(),
        Value::Object(members) => {
            references.extend(members.get("$ref").and_then(Value::as_str));
            &mut members.values()
        }
        _ => return 0,
    };
    1 + inner.map(|value| nesting(value, references)).max().unwrap_or(0)
}
