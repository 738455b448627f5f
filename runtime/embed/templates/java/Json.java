package onnxferry;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * JSON (RFC 8259), as much of it as an artifact's contract and a file of inputs need: objects as {@link Map}, lists as {@link List},
 * text as {@link String}, numbers as {@link Long} where they are whole, else {@link Double}.
 */
public final class Json {
  private static final int DEEPEST = 64;

  private final String document;
  private int at = 0;

  private Json(String document) {
    this.document = document;
  }

  /** Throws IllegalArgumentException for what is not JSON, or nested deeper than 64 levels. */
  public static Object parse(String document) {
    Json parser = new Json(document);
    Object value = parser.value(0);
    if (parser.peek() != '\0' || parser.at < document.length()) {
      throw wrong();
    }
    return value;
  }

  /** An object, or an error that says so. */
  @SuppressWarnings("unchecked")
  public static Map<String, Object> object(Object value) {
    if (value instanceof Map<?, ?>) {
      return (Map<String, Object>) value;
    }
    throw new IllegalArgumentException("the JSON has something else where an object is expected");
  }

  /** A list, or an error that says so. */
  @SuppressWarnings("unchecked")
  public static List<Object> list(Object value) {
    if (value instanceof List<?>) {
      return (List<Object>) value;
    }
    throw new IllegalArgumentException("the JSON has something else where a list is expected");
  }

  /** A text, or an error that says so. */
  public static String text(Object value) {
    if (value instanceof String text) {
      return text;
    }
    throw new IllegalArgumentException("the JSON has something else where a text is expected");
  }

  /** A number, or an error that says so. */
  public static Number number(Object value) {
    if (value instanceof Number number) {
      return number;
    }
    throw new IllegalArgumentException("the JSON has something else where a number is expected");
  }

  /** A text in quotes. */
  public static String quoted(String text) {
    StringBuilder made = new StringBuilder("\"");
    for (char each : text.toCharArray()) {
      if (each == '"' || each == '\\') {
        made.append('\\').append(each);
      } else if (each < 0x20) {
        made.append(String.format("\\u%04x", (int) each));
      } else {
        made.append(each);
      }
    }
    return made.append('"').toString();
  }

  private static IllegalArgumentException wrong() {
    return new IllegalArgumentException("the text is not valid JSON");
  }

  /** The next character that is not white space, or 0 at the end. */
  private char peek() {
    while (at < document.length() && " \t\n\r".indexOf(document.charAt(at)) >= 0) {
      at++;
    }
    return at < document.length() ? document.charAt(at) : '\0';
  }

  private boolean take(char wanted) {
    if (peek() != wanted) {
      return false;
    }
    at++;
    return true;
  }

  private Object value(int depth) {
    if (depth > DEEPEST) {
      throw new IllegalArgumentException("the JSON is nested too deeply");
    }
    switch (peek()) {
      case '{':
        return members(depth);
      case '[':
        return elements(depth);
      case '"':
        return text();
      case 't':
        return word("true", Boolean.TRUE);
      case 'f':
        return word("false", Boolean.FALSE);
      case 'n':
        return word("null", null);
      default:
        return number();
    }
  }

  private Object word(String word, Object meaning) {
    if (!document.startsWith(word, at)) {
      throw wrong();
    }
    at += word.length();
    return meaning;
  }

  private Map<String, Object> members(int depth) {
    Map<String, Object> made = new LinkedHashMap<>();
    at++;
    if (take('}')) {
      return made;
    }
    do {
      if (peek() != '"') {
        throw wrong();
      }
      String key = text();
      if (!take(':')) {
        throw wrong();
      }
      made.put(key, value(depth + 1));
    } while (take(','));
    if (!take('}')) {
      throw wrong();
    }
    return made;
  }

  private List<Object> elements(int depth) {
    List<Object> made = new ArrayList<>();
    at++;
    if (take(']')) {
      return made;
    }
    do {
      made.add(value(depth + 1));
    } while (take(','));
    if (!take(']')) {
      throw wrong();
    }
    return made;
  }

  private Object number() {
    int start = at;
    while (at < document.length() && "+-.0123456789eE".indexOf(document.charAt(at)) >= 0) {
      at++;
    }
    String written = document.substring(start, at);
    try {
      return written.matches("-?\\d{1,19}") ? (Object) Long.valueOf(written) : (Object) Double.valueOf(written);
    } catch (NumberFormatException error) {
      throw wrong();
    }
  }

  private String text() {
    StringBuilder made = new StringBuilder();
    for (at++; at < document.length(); at++) {
      char each = document.charAt(at);
      if (each == '"') {
        at++;
        return made.toString();
      }
      if (each != '\\') {
        made.append(each);
        continue;
      }
      at++;
      char escaped = at < document.length() ? document.charAt(at) : '\0';
      int place = "bfnrt\"\\/".indexOf(escaped);
      if (escaped == 'u' && at + 4 < document.length()) {
        try {
          made.append((char) Integer.parseInt(document.substring(at + 1, at + 5), 16));
        } catch (NumberFormatException error) {
          throw wrong();
        }
        at += 4;
      } else if (place >= 0 && escaped != '\0') {
        made.append("\b\f\n\r\t\"\\/".charAt(place));
      } else {
        throw wrong();
      }
    }
    throw wrong();
  }
}
