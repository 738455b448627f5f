package onnxferry;

import ai.onnxruntime.OnnxJavaType;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * An array. dtype is as in the contract ("float32", "uint8", "int64", …). The numbers are in {@code data}, a direct buffer in C order and
 * the machine's byte order, a bool as one byte; for "str" the elements are in {@code text}, and data is empty.
 */
public record Array(String dtype, long[] shape, ByteBuffer data, String[] text) {

  /** By the contract's name. ONNX Runtime has no other types of whole numbers in Java. */
  static final Map<String, OnnxJavaType> TYPES =
      Map.of(
          "float32", OnnxJavaType.FLOAT,
          "float64", OnnxJavaType.DOUBLE,
          "float16", OnnxJavaType.FLOAT16,
          "int8", OnnxJavaType.INT8,
          "int16", OnnxJavaType.INT16,
          "int32", OnnxJavaType.INT32,
          "int64", OnnxJavaType.INT64,
          "uint8", OnnxJavaType.UINT8,
          "bool", OnnxJavaType.BOOL,
          "str", OnnxJavaType.STRING);

  public Array {
    if (!TYPES.containsKey(dtype)) {
      throw new IllegalArgumentException("'" + dtype + "' is not an array type in Java");
    }
    long found = dtype.equals("str") ? text.length : data.capacity() / TYPES.get(dtype).size;
    if (found != count(shape)) {
      throw new IllegalArgumentException("an array of shape " + Arrays.toString(shape) + " has " + found + " elements in its data");
    }
  }

  /** float32 */
  public static Array of(float[] values, long... shape) {
    ByteBuffer data = buffer(4 * values.length);
    data.asFloatBuffer().put(values);
    return new Array("float32", shape, data, null);
  }

  /** int64 */
  public static Array of(long[] values, long... shape) {
    ByteBuffer data = buffer(8 * values.length);
    data.asLongBuffer().put(values);
    return new Array("int64", shape, data, null);
  }

  /** uint8 */
  public static Array of(byte[] values, long... shape) {
    return new Array("uint8", shape, buffer(values.length).put(values).rewind(), null);
  }

  /** Number of elements. */
  public int size() {
    return (int) count(shape);
  }

  boolean floating() {
    return dtype.startsWith("float");
  }

  /** The bytes, copied. */
  public byte[] bytes() {
    byte[] made = new byte[data.capacity()];
    data.duplicate().rewind().get(made);
    return made;
  }

  /** An element, rounded to a double. */
  public double number(int i) {
    switch (dtype) {
      case "float32":
        return data.getFloat(4 * i);
      case "float64":
        return data.getDouble(8 * i);
      case "float16":
        return halfToDouble(data.getShort(2 * i));
      case "int16":
        return data.getShort(2 * i);
      case "int32":
        return data.getInt(4 * i);
      case "int64":
        return data.getLong(8 * i);
      case "int8":
        return data.get(i);
      case "uint8":
      case "bool":
        return data.get(i) & 255;
      default:
        throw new IllegalArgumentException("text is not a number");
    }
  }

  /** All elements, rounded to doubles. */
  public double[] numbers() {
    double[] made = new double[size()];
    for (int i = 0; i < made.length; i++) {
      made[i] = number(i);
    }
    return made;
  }

  /** Whether an element is the same to the bit; a double does not tell large whole numbers apart. */
  boolean same(Array other, int i) {
    return dtype.equals("int64") ? data.getLong(8 * i) == other.data.getLong(8 * i) : number(i) == other.number(i);
  }

  /** Arrays of a JSON object { name: { dtype, shape, data } }: data is base64 in a contract, a list in a file of inputs or for "str". */
  public static Map<String, Array> fromJson(Object document) {
    Map<String, Array> arrays = new LinkedHashMap<>();
    Json.object(document).forEach((name, value) -> arrays.put(name, one(Json.object(value))));
    return arrays;
  }

  /** The other way around. */
  public static String toJson(Map<String, Array> arrays) {
    List<String> lines = new ArrayList<>();
    arrays.forEach(
        (name, array) -> {
          List<String> data = new ArrayList<>();
          for (int i = 0; i < array.size(); i++) {
            data.add(array.elementAsJson(i));
          }
          lines.add(
              " " + Json.quoted(name) + ": {\"dtype\": " + Json.quoted(array.dtype) + ", \"shape\": " + Arrays.toString(array.shape)
                  + ", \"data\": [" + String.join(", ", data) + "]}");
        });
    return "{\n" + String.join(",\n", lines) + "\n}";
  }

  private String elementAsJson(int i) {
    if (dtype.equals("str")) {
      return Json.quoted(text[i]);
    }
    if (dtype.equals("int64")) {
      return Long.toString(data.getLong(8 * i));
    }
    double number = number(i);
    if (!Double.isFinite(number)) {
      return "null";
    }
    return floating() ? dtype.equals("float32") ? Float.toString((float) number) : Double.toString(number) : Long.toString((long) number);
  }

  private static Array one(Map<String, Object> value) {
    String dtype = Json.text(value.get("dtype"));
    long[] shape = Json.list(value.get("shape")).stream().mapToLong(each -> Json.number(each).longValue()).toArray();
    Object data = value.get("data");
    if (!TYPES.containsKey(dtype)) {
      throw new IllegalArgumentException("'" + dtype + "' is not an array type in Java");
    }
    if (dtype.equals("str")) {
      return new Array(dtype, shape, buffer(0), Json.list(data).stream().map(Json::text).toArray(String[]::new));
    }
    if (data instanceof String base64) {
      // Little-endian, as every machine that ONNX Runtime is released for.
      byte[] bytes = Base64.getDecoder().decode(base64);
      return new Array(dtype, shape, buffer(bytes.length).put(bytes).rewind(), null);
    }
    List<Object> numbers = Json.list(data);
    ByteBuffer buffer = buffer(TYPES.get(dtype).size * numbers.size());
    for (Object each : numbers) {
      put(buffer, dtype, each);
    }
    return new Array(dtype, shape, buffer.rewind(), null);
  }

  private static void put(ByteBuffer buffer, String dtype, Object value) {
    Number number = value instanceof Boolean truth && dtype.equals("bool") ? Long.valueOf(truth ? 1 : 0) : Json.number(value);
    switch (dtype) {
      case "float32":
        buffer.putFloat(number.floatValue());
        break;
      case "float64":
        buffer.putDouble(number.doubleValue());
        break;
      case "int8":
        buffer.put((byte) whole(number, dtype, Byte.MIN_VALUE, Byte.MAX_VALUE));
        break;
      case "uint8":
        buffer.put((byte) whole(number, dtype, 0, 255));
        break;
      case "bool":
        buffer.put((byte) whole(number, dtype, 0, 1));
        break;
      case "int16":
        buffer.putShort((short) whole(number, dtype, Short.MIN_VALUE, Short.MAX_VALUE));
        break;
      case "int32":
        buffer.putInt((int) whole(number, dtype, Integer.MIN_VALUE, Integer.MAX_VALUE));
        break;
      case "int64":
        buffer.putLong(whole(number, dtype, Long.MIN_VALUE, Long.MAX_VALUE));
        break;
      default:
        throw new IllegalArgumentException(dtype + " is not read from a list of numbers");
    }
  }

  private static long whole(Number number, String dtype, long least, long most) {
    if (!(number instanceof Long) || number.longValue() < least || number.longValue() > most) {
      throw new IllegalArgumentException("'" + number + "' is not a number of type " + dtype);
    }
    return number.longValue();
  }

  static ByteBuffer buffer(int length) {
    return ByteBuffer.allocateDirect(length).order(ByteOrder.nativeOrder());
  }

  private static long count(long[] shape) {
    long count = 1;
    for (long length : shape) {
      if (length < 0 || length > Integer.MAX_VALUE || count * length > Integer.MAX_VALUE) {
        throw new IllegalArgumentException("an array has an impossible shape: " + Arrays.toString(shape));
      }
      count *= length;
    }
    return count;
  }

  private static double halfToDouble(short bits) {
    double sign = bits < 0 ? -1 : 1;
    int exponent = bits >> 10 & 31;
    int fraction = bits & 1023;
    if (exponent == 31) {
      return fraction != 0 ? Double.NaN : sign * Double.POSITIVE_INFINITY;
    }
    return sign * (exponent != 0 ? Math.scalb(1024.0 + fraction, exponent - 25) : Math.scalb((double) fraction, -24));
  }
}
