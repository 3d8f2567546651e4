//! Tensors as the Open Inference Protocol defines them: a name, a datatype, a
//! shape and little-endian row-major bytes.
//!
//! Owns datatypes, shape arithmetic and the BYTES element framing. Bytes are
//! reference counted: cloning or slicing a tensor copies nothing.

use bytes::Bytes;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::error::{Error, ErrorCode, Result};
use crate::spelled::spelled;

/// A tensor's dimensions; -1 in a signature means "any".
pub type Shape = SmallVec<[i64; 4]>;

spelled! {
    /// The 13 datatypes of the Open Inference Protocol v2, and BF16, as the protocol spells them.
    #[allow(missing_docs)]
    pub enum Datatype {
        Bool = "BOOL",
        Uint8 = "UINT8",
        Uint16 = "UINT16",
        Uint32 = "UINT32",
        Uint64 = "UINT64",
        Int8 = "INT8",
        Int16 = "INT16",
        Int32 = "INT32",
        Int64 = "INT64",
        Fp16 = "FP16",
        Bf16 = "BF16",
        Fp32 = "FP32",
        Fp64 = "FP64",
        /// Variable-length elements, each framed as a little-endian u32 length and its bytes.
        Bytes = "BYTES",
    }
}

impl Datatype {
    /// Its number in packed results, from 1.
    pub const fn wire(self) -> u8 {
        self as u8 + 1
    }

    /// The datatype of a wire number.
    pub fn from_wire(number: u8) -> Option<Datatype> {
        Datatype::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Bytes per element; `None` for BYTES, whose elements vary.
    pub const fn size(self) -> Option<usize> {
        Some(match self {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => 1,
            Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => 2,
            Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => 4,
            Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => 8,
            Datatype::Bytes => return None,
        })
    }
}

/// One named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Input or output name of the model.
    pub name: SmolStr,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, all >= 0, the batch axis first.
    pub shape: Shape,
    /// Little-endian, row-major elements; BYTES elements length-framed.
    pub data: Bytes,
}

impl Tensor {
    /// Number of elements the shape calls for.
    ///
    /// # Errors
    /// `invalid_tensor` when a dimension is negative or the product overflows.
    pub fn elements(&self) -> Result<usize> {
        elements(&self.name, &self.shape)
    }

    /// Checks that `data` has exactly the bytes that shape and datatype call
    /// for, that BOOL bytes are 0 or 1, and that BYTES framing is whole.
    ///
    /// # Errors
    /// `invalid_tensor`, naming the tensor, what it has and what it needs.
    pub fn check(&self) -> Result<()> {
        let elements = self.elements()?;
        match self.datatype.size() {
            Some(size) => {
                let want = elements.checked_mul(size).ok_or_else(|| too_many(&self.name, &self.shape))?;
                if self.data.len() != want {
                    return Err(invalid(format!(
                        "tensor `{}` has {} bytes; shape {:?} of {} needs {want}",
                        self.name,
                        self.data.len(),
                        self.shape.as_slice(),
                        self.datatype
                    )));
                }
                if self.datatype == Datatype::Bool
                    && let Some(at) = self.data.iter().position(|&byte| byte > 1)
                {
                    return Err(invalid(format!(
                        "tensor `{}` has byte {} at element {at}; BOOL takes 0 or 1",
                        self.name, self.data[at]
                    )));
                }
            }
            None => {
                let mut rest = &self.data[..];
                let mut found = 0usize;
                while !rest.is_empty() {
                    take_bytes_element(&mut rest)
                        .ok_or_else(|| invalid(format!("tensor `{}` ends inside BYTES element {found}", self.name)))?;
                    found += 1;
                }
                if found != elements {
                    return Err(invalid(format!(
                        "tensor `{}` has {found} BYTES elements; shape {:?} needs {elements}",
                        self.name,
                        self.shape.as_slice()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Index of the first NaN or infinite element, for float datatypes.
    pub fn first_non_finite(&self) -> Option<usize> {
        let data = &self.data[..];
        match self.datatype {
            Datatype::Fp32 => data.as_chunks().0.iter().position(|&b| !f32::from_le_bytes(b).is_finite()),
            Datatype::Fp64 => data.as_chunks().0.iter().position(|&b| !f64::from_le_bytes(b).is_finite()),
            // An exponent of all ones is an infinity or a NaN.
            Datatype::Fp16 => data.as_chunks().0.iter().position(|&b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
            Datatype::Bf16 => data.as_chunks().0.iter().position(|&b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
            _ => None,
        }
    }
}

/// Product of `shape`, refusing negative and overflowing dimensions.
///
/// # Errors
/// `invalid_tensor` naming the tensor and its shape.
pub fn elements(name: &str, shape: &[i64]) -> Result<usize> {
    shape.iter().try_fold(1usize, |product, &dim| {
        let dim = usize::try_from(dim).map_err(|_| {
            invalid(format!("tensor `{name}` has dimension {dim} in shape {shape:?}; dimensions are 0 or more"))
        })?;
        product.checked_mul(dim).filter(|&count| count <= isize::MAX as usize).ok_or_else(|| too_many(name, shape))
    })
}

/// Takes one length-framed BYTES element off the front; `None` when truncated.
pub fn take_bytes_element<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*head) as usize;
    if len > tail.len() {
        return None;
    }
    let (element, after) = tail.split_at(len);
    *rest = after;
    Some(element)
}

/// Appends one length-framed BYTES element.
pub fn put_bytes_element(out: &mut Vec<u8>, element: &[u8]) {
    out.extend_from_slice(&(element.len() as u32).to_le_bytes());
    out.extend_from_slice(element);
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}

fn too_many(name: &str, shape: &[i64]) -> Error {
    invalid(format!("tensor `{name}` has shape {shape:?}, more elements than memory can address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    fn tensor(datatype: Datatype, shape: Shape, data: Vec<u8>) -> Tensor {
        Tensor { name: "x".into(), datatype, shape, data: data.into() }
    }

    #[test]
    fn a_tensor_with_the_wrong_byte_count_is_refused() {
        assert!(tensor(Datatype::Fp32, smallvec![2, 2], vec![0; 16]).check().is_ok());
        let err = tensor(Datatype::Fp32, smallvec![2, 2], vec![0; 15]).check().expect_err("15 of 16 bytes");
        assert_eq!(err.message, "tensor `x` has 15 bytes; shape [2, 2] of FP32 needs 16");
    }

    #[test]
    fn negative_and_overflowing_shapes_are_refused() {
        assert!(tensor(Datatype::Int8, smallvec![-1], vec![]).check().is_err());
        assert!(tensor(Datatype::Int8, smallvec![i64::MAX, i64::MAX], vec![]).check().is_err());
        assert!(tensor(Datatype::Fp64, smallvec![i64::MAX], vec![]).check().is_err());
        assert!(tensor(Datatype::Fp64, smallvec![i64::MAX, 0], vec![]).check().is_ok());
    }

    #[test]
    fn bytes_framing_must_be_whole() {
        let mut data = Vec::new();
        put_bytes_element(&mut data, b"hello");
        put_bytes_element(&mut data, b"");
        assert!(tensor(Datatype::Bytes, smallvec![2], data.clone()).check().is_ok());
        assert!(tensor(Datatype::Bytes, smallvec![3], data.clone()).check().is_err());
        data.pop();
        assert!(tensor(Datatype::Bytes, smallvec![2], data).check().is_err());
    }

    #[test]
    fn bool_bytes_other_than_0_and_1_are_refused() {
        assert!(tensor(Datatype::Bool, smallvec![2], vec![0, 1]).check().is_ok());
        assert!(tensor(Datatype::Bool, smallvec![2], vec![0, 2]).check().is_err());
    }

    #[test]
    fn non_finite_elements_are_found_in_every_float_datatype() {
        let fp32: Vec<u8> = [1.0f32, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(tensor(Datatype::Fp32, smallvec![2], fp32).first_non_finite(), Some(1));
        let fp64: Vec<u8> = [f64::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(tensor(Datatype::Fp64, smallvec![1], fp64).first_non_finite(), Some(0));
        assert_eq!(tensor(Datatype::Fp16, smallvec![1], vec![0, 0x7c]).first_non_finite(), Some(0));
        assert_eq!(tensor(Datatype::Bf16, smallvec![1], vec![0x80, 0x3f]).first_non_finite(), None);
    }

    #[test]
    fn wire_numbers_read_back() {
        for datatype in Datatype::ALL {
            assert_eq!(Datatype::from_wire(datatype.wire()), Some(datatype));
            assert_eq!(Datatype::parse(datatype.as_str()), Some(datatype));
        }
        assert_eq!(Datatype::from_wire(0), None);
        assert_eq!(Datatype::from_wire(15), None);
    }
}
