//! The rules: what each operator does to rows, one file a family.
//!
//! A rule sees inputs that are the same, rows, or counts; what is mixed or unknown
//! never reaches one. It answers with a value for each output, or says why not.
//! It may be wrong in one direction only: never rows where there are none. Where all
//! inputs are the same, so is the output, whatever the rule says.

mod classic;
mod context;
mod conv;
mod elementwise;
mod index;
mod matrix;
mod quantize;
mod recurrent;
mod reduce;
mod shape;
mod slices;
mod transformer;

pub(crate) use context::{Context, RuleResult, Stop};
use context::{Rule, first_axis_kept, mixed};
use elementwise::elementwise;

/// The rule of an operator, if there is one.
pub(crate) fn rule(domain: &str, op: &str) -> Option<Rule> {
    match domain {
        "" => standard(op),
        "ai.onnx.ml" => of_ml(op),
        "com.microsoft" => of_microsoft(op),
        _ => None,
    }
}

fn standard(op: &str) -> Option<Rule> {
    let rule: Rule = match op {
        "Abs" | "Acos" | "Acosh" | "Add" | "Affine" | "And" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitCast"
        | "BitShift" | "BitwiseAnd" | "BitwiseNot" | "BitwiseOr" | "BitwiseXor" | "Cast" | "CastLike" | "Ceil"
        | "Celu" | "Clip" | "Cos" | "Cosh" | "Div" | "Elu" | "Equal" | "Erf" | "Exp" | "FastGelu" | "Floor"
        | "Gelu" | "Greater" | "GreaterOrEqual" | "HardSigmoid" | "HardSwish" | "Identity" | "IsInf" | "IsNaN"
        | "LeakyRelu" | "Less" | "LessOrEqual" | "Log" | "Max" | "Mean" | "Min" | "Mish" | "Mod" | "Mul" | "Neg"
        | "Not" | "Or" | "PRelu" | "ParametricSoftplus" | "Pow" | "QuickGelu" | "Reciprocal" | "RegexFullMatch"
        | "Relu" | "Round" | "ScaledTanh" | "Selu" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Sinh" | "Softplus"
        | "Softsign" | "Sqrt" | "StringConcat" | "Sub" | "Sum" | "Swish" | "Tan" | "Tanh" | "ThresholdedRelu"
        | "Where" | "Xor" => elementwise,
        "Dropout" => elementwise::dropout,

        "Constant" => shape::constant,
        "Shape" => shape::shape,
        "Size" => shape::size,
        "Reshape" => shape::reshape,
        "Flatten" => shape::flatten,
        "Squeeze" => shape::squeeze,
        "Unsqueeze" => shape::unsqueeze,
        "Expand" => shape::expand,
        "Tile" => shape::tile,
        "Transpose" => shape::transpose,
        "ConstantOfShape" => shape::constant_of_shape,
        "Range" => shape::range,

        "Slice" => slices::slice,
        "Split" => slices::split,
        "Concat" => slices::concat,
        "Pad" => slices::pad,
        "DepthToSpace" | "SpaceToDepth" => slices::rearranged,

        "Gather" => index::gather,
        "GatherElements" => index::gather_elements,
        "GatherND" => index::gather_nd,
        "ScatterElements" | "Scatter" => index::scatter_elements,
        "ScatterND" => index::scatter_nd,
        "OneHot" => index::one_hot,
        "Compress" => index::compress,
        "TopK" => index::top_k,
        "Trilu" => index::trilu,
        "ReverseSequence" => index::reverse_sequence,
        "EyeLike" => index::diagonal,
        "TfIdfVectorizer" => index::counts_words,
        "NonZero" => |_| mixed("lists places in the whole, as many as the data say"),
        "Unique" => |_| mixed("drops what other rows have too"),
        "NonMaxSuppression" => |_| mixed("lists boxes of all rows, as many as the data say"),
        "StringSplit" => |_| mixed("gives each row as many parts as the longest has"),
        "StringNormalizer" => |_| mixed("drops texts of some rows"),

        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => reduce::reduce,
        "ArgMax" | "ArgMin" => reduce::arg,
        "Softmax" | "LogSoftmax" | "Hardmax" => reduce::softmax,
        "CumSum" | "CumProd" => reduce::running,
        "LpNormalization" => reduce::along_one,
        "MeanVarianceNormalization" => reduce::mean_variance,
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => reduce::from_axis,
        "BatchNormalization" => reduce::batch_normalization,
        "InstanceNormalization" | "GroupNormalization" => first_axis_kept,
        "LRN" => reduce::across_channels,

        "MatMul" => matrix::matmul,
        "Gemm" => matrix::gemm,
        "Einsum" => matrix::einsum,
        "Det" => matrix::square_to_number,

        "Conv" | "ConvInteger" | "FusedConv" => conv::conv,
        "ConvTranspose" => conv::transposed,
        "MaxPool" | "AveragePool" | "LpPool" => conv::pool,
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => conv::global,
        "Resize" | "Upsample" => conv::resize,
        "GridSample" => conv::grid_sample,
        "AffineGrid" => conv::affine_grid,
        "RoiAlign" | "MaxRoiPool" => |_| mixed("takes images by their places in the whole"),
        "CenterCropPad" => conv::crop,
        "Col2Im" => conv::columns,
        "DeformConv" => conv::deformed,

        "LSTM" | "GRU" | "RNN" => recurrent::recurrent,
        "Attention" => transformer::attention_of_standard,
        "RotaryEmbedding" => transformer::rotary,

        "QuantizeLinear" | "DequantizeLinear" => quantize::linear,
        "DynamicQuantizeLinear" => quantize::dynamic,
        "QLinearConv" => quantize::conv,
        "QLinearMatMul" => quantize::matmul,
        "MatMulInteger" => quantize::integers,
        _ => return None,
    };
    Some(rule)
}

fn of_ml(op: &str) -> Option<Rule> {
    let rule: Rule = match op {
        "TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier" => classic::classifier,
        "TreeEnsembleRegressor" | "TreeEnsemble" | "LinearRegressor" | "SVMRegressor" => classic::wider,
        "OneHotEncoder" => classic::one_hot,
        "Scaler" | "Normalizer" | "Imputer" => classic::by_row,
        "Binarizer" | "LabelEncoder" | "CategoryMapper" => classic::by_element,
        "ArrayFeatureExtractor" => classic::columns,
        "FeatureVectorizer" => classic::beside,
        "ZipMap" => classic::maps,
        _ => return None,
    };
    Some(rule)
}

fn of_microsoft(op: &str) -> Option<Rule> {
    let rule: Rule = match op {
        "Gelu" | "FastGelu" | "BiasGelu" | "QuickGelu" => elementwise,
        "FusedMatMul" | "TransposeMatMul" => transformer::fused_matmul,
        "MatMulNBits" | "MatMulBnb4" => transformer::weights_of_bits,
        "FusedGemm" => matrix::gemm,
        "FusedConv" => conv::conv,
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => transformer::skip,
        "EmbedLayerNormalization" => transformer::embed,
        "Attention" => transformer::attention,
        "MultiHeadAttention" => transformer::multi_head,
        "RotaryEmbedding" => transformer::rotary,
        "QuantizeLinear" | "DequantizeLinear" => quantize::linear,
        "DynamicQuantizeMatMul" | "DynamicQuantizeLSTM" | "DynamicQuantizeLinear" => quantize::dynamic,
        "QLinearSigmoid" | "QLinearLeakyRelu" => quantize::first_alone,
        "QLinearAdd" | "QLinearMul" => quantize::two,
        "QLinearGlobalAveragePool" | "QLinearAveragePool" => quantize::pool,
        "QGemm" => quantize::gemm,
        "MatMulIntegerToFloat" => quantize::integers,
        _ => return None,
    };
    Some(rule)
}

/// Whether what an operator does depends on its data or on places in ways that no trial
/// of three rows shows: a model with such an operator on the way is not tried.
pub(crate) fn is_suspect(op: &str) -> bool {
    match op {
        "ArgMax"
        | "ArgMin"
        | "Compress"
        | "DynamicQuantizeLinear"
        | "EyeLike"
        | "GatherND"
        | "If"
        | "Loop"
        | "MaxRoiPool"
        | "NonMaxSuppression"
        | "NonZero"
        | "ReduceMax"
        | "ReduceMin"
        | "ReverseSequence"
        | "RoiAlign"
        | "Scan"
        | "Scatter"
        | "ScatterElements"
        | "ScatterND"
        | "SequenceAt"
        | "SplitToSequence"
        | "StringNormalizer"
        | "StringSplit"
        | "Tokenizer"
        | "TopK"
        | "Trilu"
        | "Unique"
        | "Where" => {}
        _ => return false,
    }
    true
}
