package onnxferry;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxValue;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * An onnxferry artifact: its contract, its golden samples and its defaults, and a session that runs it.
 *
 * <pre>
 * try (Artifact artifact = new Artifact(Path.of("{{FILE}}"))) {
 *   List&lt;Artifact.Row&gt; rows = artifact.check();                       // the golden samples, replayed on this machine
 *   Map&lt;String, Array&gt; outputs = artifact.run(Map.of("image", image)); // inputs that are left out have the contract's defaults
 * }
 * </pre>
 */
public final class Artifact implements AutoCloseable {
  private static final long NEWEST_SCHEMA = 2;

  // Of a certified variant: how much further it may be from the expected output than where it was certified.
  private static final double VARIANT_FACTOR = 4.0;
  private static final double VARIANT_SHARE = 0.01;
  private static final List<Object> ANY_NUMBER = List.of(0, Double.POSITIVE_INFINITY);

  private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
  private final OrtSession session;
  private final Map<String, Object> contract;
  private final Map<String, Object> certificate;
  private final Map<String, Array> defaults;
  private final List<Golden> goldens = new ArrayList<>();

  private record Golden(Map<String, Array> inputs, Map<String, Array> outputs) {}

  /** One output of one golden sample. problem: empty if it passed. */
  public record Row(int sample, String output, String problem) {
    public boolean passed() {
      return problem.isEmpty();
    }
  }

  /** Throws for what is no model, or has no contract, or a newer one. */
  public Artifact(Path path) throws OrtException {
    session = environment.createSession(path.toString());
    Map<String, String> metadata = session.getMetadata().getCustomMetadata();
    if (!metadata.containsKey("onnxferry.schema")) {
      throw new IllegalArgumentException("the model has no onnxferry contract: export it with onnxferry");
    }
    Object schema = Json.parse(metadata.get("onnxferry.schema"));
    if (Json.number(schema).longValue() > NEWEST_SCHEMA) {
      throw new IllegalArgumentException("the model's contract has schema " + schema + ", this code reads up to " + NEWEST_SCHEMA);
    }
    contract = Json.object(Json.parse(metadata.getOrDefault("onnxferry.contract", "{}")));
    certificate = Json.object(Json.parse(metadata.getOrDefault("onnxferry.certificate", "{}")));
    defaults = Array.fromJson(Json.parse(metadata.getOrDefault("onnxferry.defaults", "{}")));
    for (Object sample : Json.list(Json.parse(metadata.getOrDefault("onnxferry.goldens", "[]")))) {
      Map<String, Object> golden = Json.object(sample);
      goldens.add(new Golden(Array.fromJson(golden.get("inputs")), Array.fromJson(golden.get("outputs"))));
    }
  }

  /** "recogniser", "text-generator", "image-generator", "encoder", … */
  public String kind() {
    return Json.text(contract.get("kind"));
  }

  /** Class names by index; empty where there are no classes. */
  public List<String> labels() {
    return Json.list(contract.getOrDefault("labels", List.of())).stream().map(Json::text).toList();
  }

  /** A number among the facts of the kind, such as "channels". */
  public double option(String name, double otherwise) {
    Object value = Json.object(contract.getOrDefault("options", Map.of())).get(name);
    return value == null ? otherwise : Json.number(value).doubleValue();
  }

  /** Runs once: arrays by input name to arrays by output name. */
  public Map<String, Array> run(Map<String, Array> inputs) throws OrtException {
    for (String name : inputs.keySet()) {
      if (!session.getInputNames().contains(name)) {
        throw new IllegalArgumentException("the model has no input " + name);
      }
    }
    Map<String, OnnxTensor> tensors = new LinkedHashMap<>();
    try {
      for (String name : session.getInputNames()) {
        Array array = inputs.getOrDefault(name, defaults.get(name));
        if (array == null) {
          throw new IllegalArgumentException("the input " + name + " is missing");
        }
        tensors.put(name, tensor(array));
      }
      try (OrtSession.Result results = session.run(tensors)) {
        Map<String, Array> outputs = new LinkedHashMap<>();
        for (Map.Entry<String, OnnxValue> each : results) {
          outputs.put(each.getKey(), array(each.getKey(), each.getValue()));
        }
        return outputs;
      }
    } finally {
      tensors.values().forEach(OnnxTensor::close);
    }
  }

  private OnnxTensor tensor(Array array) throws OrtException {
    if (array.dtype().equals("str")) {
      return OnnxTensor.createTensor(environment, array.text(), array.shape());
    }
    ByteBuffer data = array.data().duplicate().order(array.data().order()).rewind();
    return OnnxTensor.createTensor(environment, data, array.shape(), Array.TYPES.get(array.dtype()));
  }

  private static Array array(String name, OnnxValue value) throws OrtException {
    if (!(value instanceof OnnxTensor tensor)) {
      throw new IllegalArgumentException("the output " + name + " is not a tensor");
    }
    TensorInfo info = tensor.getInfo();
    if (info.type == OnnxJavaType.STRING) {
      List<String> text = new ArrayList<>();
      flatten(tensor.getValue(), text);
      return new Array("str", info.getShape(), Array.buffer(0), text.toArray(String[]::new));
    }
    for (Map.Entry<String, OnnxJavaType> each : Array.TYPES.entrySet()) {
      if (each.getValue() == info.type) {
        byte[] bytes = tensor.getByteBuffer().array();
        return new Array(each.getKey(), info.getShape(), Array.buffer(bytes.length).put(bytes).rewind(), null);
      }
    }
    throw new IllegalArgumentException("the output " + name + " has a type that a contract has no name for");
  }

  private static void flatten(Object value, List<String> into) {
    if (value instanceof Object[] several) {
      for (Object each : several) {
        flatten(each, into);
      }
    } else {
      into.add((String) value);
    }
  }

  /** Replays the golden samples. Of no rows nothing is verified, which is a failure. */
  public List<Row> check() throws OrtException {
    Map<String, Object> tolerances = Json.object(contract.getOrDefault("tolerances", Map.of()));
    Map<String, Double> limits = rmsLimits();
    List<Row> rows = new ArrayList<>();
    Map<String, double[]> squares = new LinkedHashMap<>(); // by output: of the differences, of the expected values
    for (int sample = 0; sample < goldens.size(); sample++) {
      Map<String, Array> outputs = run(goldens.get(sample).inputs());
      for (Map.Entry<String, Array> each : goldens.get(sample).outputs().entrySet()) {
        String name = each.getKey();
        double[] sums = squares.computeIfAbsent(name, key -> new double[2]);
        Object tolerance = limits.containsKey(name) ? ANY_NUMBER : tolerances.get(name);
        rows.add(new Row(sample, name, compare(outputs.get(name), each.getValue(), tolerance, sums)));
      }
    }
    for (Map.Entry<String, Double> each : limits.entrySet()) {
      double allowed = each.getValue();
      double[] sums = squares.get(each.getKey());
      if (sums == null) {
        continue;
      }
      double off = Math.sqrt(sums[1] > 0 ? sums[0] / sums[1] : sums[0]);
      if (!(off <= allowed)) {
        String says = "%.1f %% off (root mean square), its certificate allows %.1f %%";
        String problem = String.format(Locale.ROOT, says, 100 * off, 100 * allowed);
        rows.replaceAll(row -> row.output().equals(each.getKey()) && row.passed() ? new Row(row.sample(), row.output(), problem) : row);
      }
    }
    return rows;
  }

  /** By output, how far a certified variant may be off as a whole: one pixel of an 8-bit image may be far off, but not all of them. */
  private Map<String, Double> rmsLimits() {
    Map<String, Double> limits = new LinkedHashMap<>();
    Json.object(certificate.getOrDefault("rms", Map.of()))
        .forEach(
            (name, share) -> {
              double limit = VARIANT_FACTOR * Json.number(share).doubleValue() + VARIANT_SHARE;
              if (limit < 1) {
                limits.put(name, limit);
              }
            });
    return limits;
  }

  /** What is wrong with an output, or "": as "Verify a file in another language" in onnxferry's documentation says. */
  private static String compare(Array actual, Array expected, Object tolerance, double[] squares) {
    if (actual == null) {
      return "the model has no such output";
    }
    if (!actual.dtype().equals(expected.dtype())) {
      return actual.dtype() + ", expected " + expected.dtype();
    }
    if (!Arrays.equals(actual.shape(), expected.shape())) {
      return "shape " + Arrays.toString(actual.shape()) + ", expected " + Arrays.toString(expected.shape());
    }
    if (expected.dtype().equals("str")) {
      return Arrays.equals(actual.text(), expected.text()) ? "" : "other text";
    }
    double rtol = expected.floating() ? 1e-4 : 0;
    double atol = expected.floating() ? 1e-5 : 0;
    if (tolerance != null) {
      rtol = Json.number(Json.list(tolerance).get(0)).doubleValue();
      atol = Json.number(Json.list(tolerance).get(1)).doubleValue();
    }
    int wrong = 0;
    double furthest = 0;
    for (int i = 0; i < expected.size(); i++) {
      double e = expected.number(i);
      double distance = actual.same(expected, i) ? 0 : Math.abs(actual.number(i) - e);
      double allowed = Double.isFinite(e) ? atol + rtol * Math.abs(e) : 0;
      boolean exact = rtol == 0 && atol == 0;
      if (exact ? !actual.same(expected, i) : !(distance <= allowed)) {
        wrong++;
      }
      furthest = distance <= furthest ? furthest : distance; // not a number is kept
      squares[0] += distance * distance;
      squares[1] += e * e;
    }
    return wrong == 0 ? "" : wrong + " of " + expected.size() + " numbers differ by up to " + furthest;
  }

  @Override
  public void close() throws OrtException {
    session.close();
  }
}
