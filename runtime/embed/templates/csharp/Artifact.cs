using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using Microsoft.ML.OnnxRuntime;

namespace Onnxferry
{
    /// <summary>One output of one golden sample. Problem: null if it passed.</summary>
    public sealed class Row
    {
        public int Sample;
        public string Output;
        public string Problem;
    }

    /// <summary>An onnxferry artifact: its contract, its golden samples and its defaults, and a session that runs it.</summary>
    public sealed class Artifact : IDisposable
    {
        private const double NewestSchema = 2;

        // Of a certified variant: how much further it may be from the expected output than where it was certified.
        private const double VariantFactor = 4.0;
        private const double VariantShare = 0.01;

        private readonly InferenceSession session;
        private readonly Dictionary<string, object> contract;
        private readonly Dictionary<string, object> certificate;
        private readonly Dictionary<string, NDArray> defaults;
        private readonly List<KeyValuePair<Dictionary<string, NDArray>, Dictionary<string, NDArray>>> goldens; // inputs, outputs

        /// <summary>Throws for what is no model, or has no contract, or a newer one.</summary>
        public Artifact(string path)
        {
            session = new InferenceSession(path);
            var metadata = session.ModelMetadata.CustomMetadataMap;
            Func<string, string, object> value = (key, otherwise) => Json.Parse(metadata.ContainsKey(key) ? metadata[key] : otherwise);
            if (!metadata.ContainsKey("onnxferry.schema"))
            {
                throw new FormatException("the model has no onnxferry contract: export it with onnxferry");
            }
            var schema = Json.Number(value("onnxferry.schema", ""));
            if (schema > NewestSchema)
            {
                throw new FormatException("the model's contract has schema " + schema + ", this code reads up to " + NewestSchema);
            }
            contract = Json.Object(value("onnxferry.contract", "{}"));
            certificate = Json.Object(value("onnxferry.certificate", "{}"));
            defaults = NDArray.FromJson(value("onnxferry.defaults", "{}"));
            goldens = Json.List(value("onnxferry.goldens", "[]")).Select(Json.Object).Select(sample =>
                new KeyValuePair<Dictionary<string, NDArray>, Dictionary<string, NDArray>>(
                    NDArray.FromJson(sample["inputs"]), NDArray.FromJson(sample["outputs"]))).ToList();
        }

        /// <summary>"recogniser", "text-generator", "image-generator", "encoder", …</summary>
        public string Kind => Json.Text(contract["kind"]);

        /// <summary>Class names by index; empty where there are no classes.</summary>
        public List<string> Labels =>
            contract.TryGetValue("labels", out var labels) ? Json.List(labels).Select(Json.Text).ToList() : new List<string>();

        /// <summary>A number among the facts of the kind, such as "channels".</summary>
        public double Option(string name, double otherwise)
        {
            return Part(contract, "options").TryGetValue(name, out var value) ? Json.Number(value) : otherwise;
        }

        private static Dictionary<string, object> Part(Dictionary<string, object> of, string name)
        {
            return of.TryGetValue(name, out var found) ? Json.Object(found) : new Dictionary<string, object>();
        }

        /// <summary>Runs once: arrays by input name to arrays by output name. Inputs that are left out have the contract's defaults.</summary>
        public Dictionary<string, NDArray> Run(Dictionary<string, NDArray> inputs)
        {
            foreach (var name in inputs.Keys.Where(name => !session.InputMetadata.ContainsKey(name)))
            {
                throw new ArgumentException("the model has no input " + name);
            }
            var fed = new List<NamedOnnxValue>();
            foreach (var name in session.InputMetadata.Keys)
            {
                if (!inputs.TryGetValue(name, out var array) && !defaults.TryGetValue(name, out array))
                {
                    throw new ArgumentException("the input " + name + " is missing");
                }
                fed.Add(array.ToOnnx(name));
            }
            using (var results = session.Run(fed))
            {
                return results.ToDictionary(each => each.Name, NDArray.FromOnnx);
            }
        }

        /// <summary>Replays the golden samples. Of no rows nothing is verified, which is a failure.</summary>
        public List<Row> Check()
        {
            var tolerances = Part(contract, "tolerances");
            var limits = RmsLimits();
            var rows = new List<Row>();
            var squares = new Dictionary<string, double[]>(); // by output: of the differences, of the expected values
            for (var sample = 0; sample < goldens.Count; sample++)
            {
                var outputs = Run(goldens[sample].Key);
                foreach (var each in goldens[sample].Value)
                {
                    if (!squares.TryGetValue(each.Key, out var sums))
                    {
                        squares[each.Key] = sums = new double[2];
                    }
                    double[] tolerance = null;
                    if (limits.ContainsKey(each.Key))
                    {
                        tolerance = new[] { 0, double.PositiveInfinity };
                    }
                    else if (tolerances.TryGetValue(each.Key, out var pair))
                    {
                        tolerance = Json.List(pair).Select(Json.Number).ToArray();
                    }
                    outputs.TryGetValue(each.Key, out var found);
                    rows.Add(new Row { Sample = sample, Output = each.Key, Problem = Compare(found, each.Value, tolerance, sums) });
                }
            }
            foreach (var each in limits.Where(each => squares.ContainsKey(each.Key)))
            {
                var sums = squares[each.Key];
                var off = Math.Sqrt(sums[1] > 0 ? sums[0] / sums[1] : sums[0]);
                if (off <= each.Value)
                {
                    continue;
                }
                var problem = string.Format(CultureInfo.InvariantCulture,
                    "{0:F1} % off (root mean square), its certificate allows {1:F1} %", 100 * off, 100 * each.Value);
                foreach (var row in rows.Where(row => row.Output == each.Key && row.Problem == null))
                {
                    row.Problem = problem;
                }
            }
            return rows;
        }

        /// <summary>By output, how far a certified variant may be off as a whole: one pixel of an 8-bit image may be far off, but not all of
        /// them.</summary>
        private Dictionary<string, double> RmsLimits()
        {
            return Part(certificate, "rms")
                .Select(each => new KeyValuePair<string, double>(each.Key, VariantFactor * Json.Number(each.Value) + VariantShare))
                .Where(each => each.Value < 1)
                .ToDictionary(each => each.Key, each => each.Value);
        }

        /// <summary>What is wrong with an output, or null: as "Verify a file in another language" in onnxferry's documentation says.</summary>
        private static string Compare(NDArray actual, NDArray expected, double[] tolerance, double[] squares)
        {
            if (actual == null)
            {
                return "the model has no such output";
            }
            if (actual.Dtype != expected.Dtype)
            {
                return actual.Dtype + ", expected " + expected.Dtype;
            }
            if (!actual.Shape.SequenceEqual(expected.Shape))
            {
                return "shape [" + string.Join(", ", actual.Shape) + "], expected [" + string.Join(", ", expected.Shape) + "]";
            }
            if (expected.Dtype == "str")
            {
                return ((string[])expected.Values).SequenceEqual((string[])actual.Values) ? null : "other text";
            }
            var rtol = tolerance != null ? tolerance[0] : expected.IsFloat ? 1e-4 : 0;
            var atol = tolerance != null ? tolerance[1] : expected.IsFloat ? 1e-5 : 0;
            var exact = rtol == 0 && atol == 0 && !expected.IsFloat; // a double does not tell large whole numbers apart
            var wrong = 0;
            var furthest = 0.0;
            for (var i = 0; i < expected.Values.Length; i++)
            {
                var a = actual.Number(i);
                var e = expected.Number(i);
                var equal = exact ? actual.Values.GetValue(i).Equals(expected.Values.GetValue(i)) : a == e;
                var distance = equal ? 0 : Math.Abs(a - e);
                var allowed = double.IsNaN(e) || double.IsInfinity(e) ? 0 : atol + rtol * Math.Abs(e);
                if (!equal && (exact || !(distance <= allowed)))
                {
                    wrong++;
                }
                furthest = distance <= furthest ? furthest : distance; // not a number is kept
                squares[0] += distance * distance;
                squares[1] += e * e;
            }
            return wrong == 0 ? null : wrong + " of " + expected.Values.Length + " numbers differ by up to "
                + furthest.ToString(CultureInfo.InvariantCulture);
        }

        public void Dispose()
        {
            session.Dispose();
        }
    }
}
