//! Arrays, and their JSON: { "dtype": "float32", "shape": [2], "data": [1, 2.5] }.

use std::collections::BTreeMap;

use ort::value::{DynTensor, DynValue, Tensor, TensorElementType};
use serde_json::{json, Value};

use crate::artifact::Result;

/// Arrays by the name of an input or an output.
pub type Arrays = BTreeMap<String, Array>;

/// Numbers or text in C order.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Bool(Vec<bool>),
    Text(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<i64>,
    pub data: Data,
}

/// The same expression for every type of data.
macro_rules! each {
    ($data:expr, $values:ident => $numbers:expr, $truths:ident => $bools:expr, $lines:ident => $text:expr) => {
        match $data {
            Data::Float32($values) => $numbers,
            Data::Float64($values) => $numbers,
            Data::Int8($values) => $numbers,
            Data::Int16($values) => $numbers,
            Data::Int32($values) => $numbers,
            Data::Int64($values) => $numbers,
            Data::Uint8($values) => $numbers,
            Data::Uint16($values) => $numbers,
            Data::Uint32($values) => $numbers,
            Data::Uint64($values) => $numbers,
            Data::Bool($truths) => $bools,
            Data::Text($lines) => $text,
        }
    };
}

impl Array {
    /// Fails where the shape is not that of the data.
    pub fn new(shape: Vec<i64>, data: Data) -> Result<Self> {
        let count = shape.iter().try_fold(1usize, |count, &length| {
            count.checked_mul(usize::try_from(length).ok()?)
        });
        let found =
            each!(&data, values => values.len(), values => values.len(), values => values.len());
        if count != Some(found) {
            return Err(
                format!("an array of shape {shape:?} has {found} elements in its data").into(),
            );
        }
        Ok(Array { shape, data })
    }

    /// As in the contract: "float32", "int64", …
    pub fn dtype(&self) -> &'static str {
        match self.data {
            Data::Float32(_) => "float32",
            Data::Float64(_) => "float64",
            Data::Int8(_) => "int8",
            Data::Int16(_) => "int16",
            Data::Int32(_) => "int32",
            Data::Int64(_) => "int64",
            Data::Uint8(_) => "uint8",
            Data::Uint16(_) => "uint16",
            Data::Uint32(_) => "uint32",
            Data::Uint64(_) => "uint64",
            Data::Bool(_) => "bool",
            Data::Text(_) => "str",
        }
    }

    pub fn is_float(&self) -> bool {
        matches!(self.data, Data::Float32(_) | Data::Float64(_))
    }

    /// All elements, rounded to f64. Fails for text.
    #[allow(clippy::unnecessary_cast)] // of float64
    pub fn numbers(&self) -> Result<Vec<f64>> {
        Ok(each!(&self.data,
            values => values.iter().map(|&value| value as f64).collect(),
            values => values.iter().map(|&value| f64::from(u8::from(value))).collect(),
            _values => return Err("text is not a number".into())))
    }

    /// The bytes of an array of uint8.
    pub fn bytes(&self) -> Result<&[u8]> {
        match &self.data {
            Data::Uint8(bytes) => Ok(bytes),
            _ => Err(format!("an array is {}, expected uint8", self.dtype()).into()),
        }
    }

    pub(crate) fn to_value(&self) -> Result<DynTensor> {
        let shape = self.shape.clone();
        Ok(each!(&self.data,
            values => Tensor::from_array((shape, values.clone()))?.upcast(),
            values => Tensor::from_array((shape, values.clone()))?.upcast(),
            values => Tensor::from_string_array((shape, values.as_slice()))?.upcast()))
    }

    pub(crate) fn from_value(value: &DynValue) -> Result<Self> {
        let tensor = value.downcast_ref::<ort::value::DynTensorValueType>()?;
        let shape: Vec<i64> = tensor.shape().to_vec();
        let empty = shape.contains(&0); // the library may have no address for no numbers
        macro_rules! numbers {
            ($variant:ident, $number:ty) => {
                Data::$variant(if empty {
                    Vec::new()
                } else {
                    tensor.try_extract_tensor::<$number>()?.1.to_vec()
                })
            };
        }
        let data = match tensor.data_type() {
            TensorElementType::Float32 => numbers!(Float32, f32),
            TensorElementType::Float64 => numbers!(Float64, f64),
            TensorElementType::Int8 => numbers!(Int8, i8),
            TensorElementType::Int16 => numbers!(Int16, i16),
            TensorElementType::Int32 => numbers!(Int32, i32),
            TensorElementType::Int64 => numbers!(Int64, i64),
            TensorElementType::Uint8 => numbers!(Uint8, u8),
            TensorElementType::Uint16 => numbers!(Uint16, u16),
            TensorElementType::Uint32 => numbers!(Uint32, u32),
            TensorElementType::Uint64 => numbers!(Uint64, u64),
            TensorElementType::Bool => numbers!(Bool, bool),
            TensorElementType::String => Data::Text(tensor.try_extract_strings()?.1),
            other => {
                return Err(format!("the model has an output of {other}, which is not read").into())
            }
        };
        Array::new(shape, data)
    }

    fn from_json(value: &Value) -> Result<Self> {
        let dtype = value["dtype"].as_str().unwrap_or_default();
        let shape = value["shape"].as_array().ok_or("an array has no shape")?;
        let shape = shape.iter().map(|length| {
            length
                .as_i64()
                .ok_or("a shape has something that is not a whole number")
        });
        let shape = shape.collect::<std::result::Result<_, _>>()?;
        let data = &value["data"];
        macro_rules! numbers {
            ($variant:ident, $number:ty, $read:expr) => {
                Data::$variant(match data {
                    Value::String(base64) => {
                        let bytes = decode_base64(base64)?;
                        let (chunks, []) = bytes.as_chunks::<{ size_of::<$number>() }>() else {
                            return Err("an array in the contract is cut off".into());
                        };
                        chunks
                            .iter()
                            .map(|&chunk| <$number>::from_le_bytes(chunk))
                            .collect()
                    }
                    _ => list(data)?
                        .iter()
                        .map(|each| $read(each).ok_or(wrong(each, dtype)))
                        .collect::<std::result::Result<_, _>>()?,
                })
            };
        }
        macro_rules! whole {
            ($variant:ident, $number:ty, $as:ident) => {
                numbers!($variant, $number, |each: &Value| <$number>::try_from(
                    each.$as()?
                )
                .ok())
            };
        }
        let data = match dtype {
            "float32" => numbers!(Float32, f32, |each: &Value| each
                .as_f64()
                .map(|number| number as f32)),
            "float64" => numbers!(Float64, f64, |each: &Value| each.as_f64()),
            "int8" => whole!(Int8, i8, as_i64),
            "int16" => whole!(Int16, i16, as_i64),
            "int32" => whole!(Int32, i32, as_i64),
            "int64" => whole!(Int64, i64, as_i64),
            "uint8" => whole!(Uint8, u8, as_u64),
            "uint16" => whole!(Uint16, u16, as_u64),
            "uint32" => whole!(Uint32, u32, as_u64),
            "uint64" => whole!(Uint64, u64, as_u64),
            "bool" => Data::Bool(match data {
                Value::String(base64) => decode_base64(base64)?
                    .into_iter()
                    .map(|byte| byte != 0)
                    .collect(),
                _ => list(data)?
                    .iter()
                    .map(|each| each.as_bool().ok_or(wrong(each, dtype)))
                    .collect::<std::result::Result<_, _>>()?,
            }),
            "str" => Data::Text(
                list(data)?
                    .iter()
                    .map(|each| each.as_str().unwrap_or_default().to_owned())
                    .collect(),
            ),
            _ => return Err(format!("'{dtype}' is not an array type in Rust").into()),
        };
        Array::new(shape, data)
    }
}

fn list(data: &Value) -> Result<&Vec<Value>> {
    data.as_array()
        .ok_or_else(|| "the data of an array is not a list".into())
}

fn wrong(value: &Value, dtype: &str) -> String {
    format!("'{value}' is not a number of type {dtype}")
}

/// Arrays of a JSON object { name: { dtype, shape, data } }: data is base64 in a contract, a list in a file of inputs or for "str".
pub fn arrays_from_json(document: &Value) -> Result<Arrays> {
    let members = document
        .as_object()
        .ok_or("expected a JSON object from input name to { dtype, shape, data }")?;
    members
        .iter()
        .map(|(name, value)| Ok((name.clone(), Array::from_json(value)?)))
        .collect()
}

/// The other way around.
pub fn arrays_to_json(arrays: &Arrays) -> Value {
    let one = |array: &Array| {
        let data = each!(&array.data, values => json!(values), values => json!(values), values => json!(values));
        json!({ "dtype": array.dtype(), "shape": array.shape, "data": data })
    };
    arrays
        .iter()
        .map(|(name, array)| (name.clone(), one(array)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn decode_base64(text: &str) -> Result<Vec<u8>> {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for each in text.trim_end_matches('=').bytes() {
        let digit = digits
            .iter()
            .position(|&digit| digit == each)
            .ok_or("an array in the contract is not base64")?;
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}
