using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Onnxferry
{
    /// <summary>An array in C order. Values is float[], double[], sbyte[], short[], int[], long[], byte[], ushort[], uint[], ulong[],
    /// bool[] or string[].</summary>
    public sealed class NDArray
    {
        private static readonly Dictionary<string, Type> Types = new Dictionary<string, Type>
        {
            ["float32"] = typeof(float),
            ["float64"] = typeof(double),
            ["int8"] = typeof(sbyte),
            ["int16"] = typeof(short),
            ["int32"] = typeof(int),
            ["int64"] = typeof(long),
            ["uint8"] = typeof(byte),
            ["uint16"] = typeof(ushort),
            ["uint32"] = typeof(uint),
            ["uint64"] = typeof(ulong),
            ["bool"] = typeof(bool),
            ["str"] = typeof(string),
        };

        public NDArray(Array values, params int[] shape)
        {
            Values = values;
            Shape = shape;
            Dtype = Types.FirstOrDefault(each => each.Value == values.GetType().GetElementType()).Key;
            if (Dtype == null)
            {
                throw new ArgumentException("an array of " + values.GetType() + " is not one of a contract");
            }
            long count = 1;
            foreach (var length in shape)
            {
                count = length < 0 || count * length > int.MaxValue ? -1 : count * length;
                if (count < 0)
                {
                    break;
                }
            }
            if (count != values.Length)
            {
                var shown = string.Join(", ", shape);
                throw new ArgumentException("an array of shape [" + shown + "] has " + values.Length + " elements in its data");
            }
        }

        public Array Values { get; }

        public int[] Shape { get; }

        /// <summary>As in the contract: "float32", "int64", …</summary>
        public string Dtype { get; }

        public bool IsFloat => Values is float[] || Values is double[];

        /// <summary>An element, rounded to a double.</summary>
        public double Number(int i)
        {
            return Convert.ToDouble(Values.GetValue(i), CultureInfo.InvariantCulture);
        }

        /// <summary>The value for a session.</summary>
        internal NamedOnnxValue ToOnnx(string name)
        {
            switch (Dtype)
            {
                case "float32":
                    return Named<float>(name);
                case "float64":
                    return Named<double>(name);
                case "int8":
                    return Named<sbyte>(name);
                case "int16":
                    return Named<short>(name);
                case "int32":
                    return Named<int>(name);
                case "int64":
                    return Named<long>(name);
                case "uint8":
                    return Named<byte>(name);
                case "uint16":
                    return Named<ushort>(name);
                case "uint32":
                    return Named<uint>(name);
                case "uint64":
                    return Named<ulong>(name);
                case "bool":
                    return Named<bool>(name);
                default:
                    return Named<string>(name);
            }
        }

        private NamedOnnxValue Named<T>(string name)
        {
            return NamedOnnxValue.CreateFromTensor(name, new DenseTensor<T>((T[])Values, Shape));
        }

        /// <summary>A copy of what a session gave.</summary>
        internal static NDArray FromOnnx(NamedOnnxValue named)
        {
            var value = named.Value;
            var found = Copied(value as Tensor<float>)
                ?? Copied(value as Tensor<double>)
                ?? Copied(value as Tensor<sbyte>)
                ?? Copied(value as Tensor<short>)
                ?? Copied(value as Tensor<int>)
                ?? Copied(value as Tensor<long>)
                ?? Copied(value as Tensor<byte>)
                ?? Copied(value as Tensor<ushort>)
                ?? Copied(value as Tensor<uint>)
                ?? Copied(value as Tensor<ulong>)
                ?? Copied(value as Tensor<bool>)
                ?? Copied(value as Tensor<string>);
            return found ?? throw new ArgumentException("the output " + named.Name + " has a type that is not read");
        }

        private static NDArray Copied<T>(Tensor<T> tensor)
        {
            return tensor == null ? null : new NDArray(tensor.ToArray(), tensor.Dimensions.ToArray());
        }

        /// <summary>Arrays of a JSON object { name: { dtype, shape, data } }: data is base64 in a contract, a list in a file of inputs or for
        /// "str".</summary>
        public static Dictionary<string, NDArray> FromJson(object document)
        {
            return Json.Object(document).ToDictionary(each => each.Key, each => One(Json.Object(each.Value)));
        }

        /// <summary>The other way around.</summary>
        public static string ToJson(Dictionary<string, NDArray> arrays)
        {
            var lines = new List<string>();
            foreach (var each in arrays)
            {
                var shape = string.Join(", ", each.Value.Shape);
                var data = string.Join(", ", each.Value.Values.Cast<object>().Select(Written));
                var dtype = Json.Quoted(each.Value.Dtype);
                lines.Add(" " + Json.Quoted(each.Key) + ": {\"dtype\": " + dtype + ", \"shape\": [" + shape + "], \"data\": [" + data + "]}");
            }
            return "{\n" + string.Join(",\n", lines) + "\n}";
        }

        private static string Written(object value)
        {
            if (value is string)
            {
                return Json.Quoted((string)value);
            }
            if (value is bool)
            {
                return (bool)value ? "1" : "0";
            }
            if (!(value is float) && !(value is double))
            {
                return Convert.ToString(value, CultureInfo.InvariantCulture);
            }
            var number = Convert.ToDouble(value, CultureInfo.InvariantCulture);
            var finite = !double.IsNaN(number) && !double.IsInfinity(number);
            return finite ? ((IFormattable)value).ToString("R", CultureInfo.InvariantCulture) : "null";
        }

        private static NDArray One(Dictionary<string, object> value)
        {
            value.TryGetValue("dtype", out var name);
            value.TryGetValue("shape", out var lengths);
            value.TryGetValue("data", out var data);
            if (!Types.TryGetValue(Json.Text(name), out var type))
            {
                throw new FormatException("'" + name + "' is not an array type in C#");
            }
            var shape = Json.List(lengths).Select(length => (int)Whole(length, typeof(int))).ToArray();
            if (data is string)
            {
                // Little-endian, as every machine that ONNX Runtime is released for.
                var bytes = Convert.FromBase64String((string)data);
                var unit = Buffer.ByteLength(Array.CreateInstance(type, 1));
                var numbers = Array.CreateInstance(type, bytes.Length / unit);
                Buffer.BlockCopy(bytes, 0, numbers, 0, Buffer.ByteLength(numbers));
                return new NDArray(numbers, shape);
            }
            var listed = Json.List(data);
            var made = Array.CreateInstance(type, listed.Count);
            for (var i = 0; i < listed.Count; i++)
            {
                made.SetValue(Element(listed[i], type), i);
            }
            return new NDArray(made, shape);
        }

        private static object Element(object value, Type type)
        {
            if (type == typeof(string))
            {
                return Json.Text(value);
            }
            if (type == typeof(bool))
            {
                return value is bool ? value : Json.Number(value) != 0;
            }
            return type == typeof(float) ? (float)Json.Number(value) : type == typeof(double) ? Json.Number(value) : Whole(value, type);
        }

        private static object Whole(object value, Type type)
        {
            try
            {
                if (value is long || value is ulong)
                {
                    return Convert.ChangeType(value, type, CultureInfo.InvariantCulture);
                }
            }
            catch (OverflowException)
            {
                // said below
            }
            var dtype = Types.First(each => each.Value == type).Key;
            throw new FormatException("'" + Convert.ToString(value, CultureInfo.InvariantCulture) + "' is not a number of type " + dtype);
        }
    }
}
