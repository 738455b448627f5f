//! An onnxferry artifact: its contract, its golden samples and its defaults, and a session that runs it.

use std::collections::BTreeMap;
use std::path::Path;

use ort::session::{Session, SessionInputValue};
use serde_json::Value;

use crate::array::{arrays_from_json, Array, Arrays, Data};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const NEWEST_SCHEMA: u64 = 2;

// Of a certified variant: how much further it may be from the expected output than where it was certified.
const VARIANT_FACTOR: f64 = 4.0;
const VARIANT_SHARE: f64 = 0.01;
const ANY_NUMBER: [f64; 2] = [0.0, f64::INFINITY];

pub struct Artifact {
    session: Session,
    contract: Value,
    certificate: Value,
    defaults: Arrays,
    goldens: Vec<(Arrays, Arrays)>, // inputs, outputs
}

/// One output of one golden sample.
pub struct Row {
    pub sample: usize,
    pub output: String,
    pub problem: Option<String>,
}

impl Artifact {
    /// Fails for what is no model, or has no contract, or a newer one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let session = Session::builder()?.commit_from_file(path)?;
        let metadata = session.metadata()?;
        let value = |key: &str, otherwise: &str| {
            let found = metadata.custom(key).filter(|text| !text.is_empty()); // "" for a key that is not there
            serde_json::from_str(found.as_deref().unwrap_or(otherwise))
        };
        let schema: Value = value("onnxferry.schema", "null")?;
        match schema.as_u64() {
            None => {
                return Err("the model has no onnxferry contract: export it with onnxferry".into())
            }
            Some(number) if number > NEWEST_SCHEMA => {
                return Err(format!("the model's contract has schema {number}, this code reads up to {NEWEST_SCHEMA}").into());
            }
            Some(_) => (),
        }
        let contract: Value = value("onnxferry.contract", "{}")?;
        let certificate: Value = value("onnxferry.certificate", "{}")?;
        let defaults = arrays_from_json(&value("onnxferry.defaults", "{}")?)?;
        let samples: Vec<Value> = serde_json::from_value(value("onnxferry.goldens", "[]")?)?;
        let golden = |sample: &Value| {
            Ok((
                arrays_from_json(&sample["inputs"])?,
                arrays_from_json(&sample["outputs"])?,
            ))
        };
        let goldens = samples.iter().map(golden).collect::<Result<_>>()?;
        drop(metadata);
        Ok(Artifact {
            session,
            contract,
            certificate,
            defaults,
            goldens,
        })
    }

    /// "recogniser", "text-generator", "image-generator", "encoder", …
    pub fn kind(&self) -> &str {
        self.contract["kind"].as_str().unwrap_or_default()
    }

    /// Class names by index; empty where there are no classes.
    pub fn labels(&self) -> Vec<String> {
        let labels = self.contract["labels"].as_array();
        labels
            .into_iter()
            .flatten()
            .map(|label| label.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// A number among the facts of the kind, such as "channels".
    pub fn option(&self, name: &str) -> Option<f64> {
        self.contract["options"][name].as_f64()
    }

    /// Runs once: arrays by input name to arrays by output name. Inputs that are left out have the contract's defaults.
    pub fn run(&mut self, inputs: &Arrays) -> Result<Arrays> {
        let names: Vec<String> = self
            .session
            .inputs()
            .iter()
            .map(|input| input.name().to_owned())
            .collect();
        if let Some(name) = inputs.keys().find(|name| !names.contains(name)) {
            return Err(format!("the model has no input {name}").into());
        }
        let mut fed: Vec<(String, SessionInputValue)> = Vec::new();
        for name in names {
            let array = inputs.get(&name).or_else(|| self.defaults.get(&name));
            let array = array.ok_or_else(|| format!("the input {name} is missing"))?;
            fed.push((name, array.to_value()?.into()));
        }
        let outputs = self.session.run(fed)?;
        outputs
            .iter()
            .map(|(name, value)| Ok((name.to_owned(), Array::from_value(&value)?)))
            .collect()
    }

    /// By output, how far a certified variant may be off as a whole: one pixel of an 8-bit image may be far off, but not all of them.
    fn rms_limits(&self) -> BTreeMap<String, f64> {
        let shares = self.certificate["rms"].as_object().into_iter().flatten();
        let limit = |share: &Value| {
            VARIANT_FACTOR * share.as_f64().unwrap_or(f64::INFINITY) + VARIANT_SHARE
        };
        shares
            .map(|(name, share)| (name.clone(), limit(share)))
            .filter(|(_, limit)| *limit < 1.0)
            .collect()
    }

    /// Replays the golden samples. Of no rows nothing is verified, which is a failure.
    pub fn check(&mut self) -> Result<Vec<Row>> {
        let limits = self.rms_limits();
        let mut rows: Vec<Row> = Vec::new();
        let mut squares: BTreeMap<String, [f64; 2]> = BTreeMap::new(); // by output: of the differences, of the expected values
        for (sample, (inputs, expected)) in self.goldens.clone().iter().enumerate() {
            let outputs = self.run(inputs)?;
            for (name, wanted) in expected {
                let sums = squares.entry(name.clone()).or_default();
                let tolerance = self.contract["tolerances"][name].as_array();
                let tolerance = tolerance
                    .map(|pair| [0, 1].map(|i| pair.get(i).and_then(Value::as_f64).unwrap_or(0.0)));
                let tolerance = if limits.contains_key(name) {
                    Some(ANY_NUMBER)
                } else {
                    tolerance
                };
                let problem = match outputs.get(name) {
                    Some(found) => compare(found, wanted, tolerance, sums)?,
                    None => Some("the model has no such output".to_owned()),
                };
                rows.push(Row {
                    sample,
                    output: name.clone(),
                    problem,
                });
            }
        }
        for (name, &allowed) in &limits {
            let Some([off, whole]) = squares.get(name) else {
                continue;
            };
            let found = if *whole > 0.0 {
                (off / whole).sqrt()
            } else {
                off.sqrt()
            };
            if found <= allowed {
                continue;
            }
            for row in rows
                .iter_mut()
                .filter(|row| &row.output == name && row.problem.is_none())
            {
                let [found, allowed] = [100.0 * found, 100.0 * allowed];
                row.problem = Some(format!(
                    "{found:.1} % off (root mean square), its certificate allows {allowed:.1} %"
                ));
            }
        }
        Ok(rows)
    }
}

/// What is wrong with an output: as "Verify a file in another language" in onnxferry's documentation says.
fn compare(
    actual: &Array,
    expected: &Array,
    tolerance: Option<[f64; 2]>,
    squares: &mut [f64; 2],
) -> Result<Option<String>> {
    if actual.dtype() != expected.dtype() {
        return Ok(Some(format!(
            "{}, expected {}",
            actual.dtype(),
            expected.dtype()
        )));
    }
    if actual.shape != expected.shape {
        return Ok(Some(format!(
            "shape {:?}, expected {:?}",
            actual.shape, expected.shape
        )));
    }
    if let Data::Text(_) = expected.data {
        return Ok((actual != expected).then(|| "other text".to_owned()));
    }
    let [rtol, atol] = tolerance.unwrap_or(if expected.is_float() {
        [1e-4, 1e-5]
    } else {
        [0.0, 0.0]
    });
    let (mut wrong, mut furthest) = (0, 0f64);
    let (a, e) = (actual.numbers()?, expected.numbers()?);
    for (&a, &e) in a.iter().zip(&e) {
        let distance = if a == e { 0.0 } else { (a - e).abs() };
        let allowed = if e.is_finite() {
            atol + rtol * e.abs()
        } else {
            0.0
        };
        let near = distance <= allowed; // false for not-a-number
        wrong += usize::from(!near);
        furthest = if distance <= furthest {
            furthest
        } else {
            distance
        };
        squares[0] += distance * distance;
        squares[1] += e * e;
    }
    if wrong == 0 && rtol == 0.0 && atol == 0.0 && !expected.is_float() && actual != expected {
        wrong = 1; // an f64 does not tell large whole numbers apart
    }
    Ok((wrong > 0).then(|| format!("{wrong} of {} numbers differ by up to {furthest}", e.len())))
}
