// Runs this folder's model with ONNX Runtime's C++ API.
//
//   run TASK --port value … --out FILE     pictures in as PNG, PGM, PPM or .npy, out as PNG; several values with commas;
//                                          texts directly, each with its own --port, or @FILE, a text per line;
//                                          FILE gets the first output that fits
//   run verify [--out FOLDER]              runs the golden cases
//   run [TASK] --help                      lists the tasks, what they take, and an example of each
//
// In your own program: Model model(folder); Arrays outputs = model.run("generate", {{"seed", "7"}, {"label", "Sneaker"}});

#define ORT_API_MANUAL_INIT  // the library is opened below
#include <dlfcn.h>
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

namespace fs = std::filesystem;
using Shape = std::vector<int64_t>;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) refuse(path.string() + " cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

// --- JSON: as much as model.json and cases.json need ---------------------------------------------------------------------

struct Json {
  enum Type { null, boolean, number, text, list, object } type = null;
  double value = 0;
  std::string string;                               // UTF-8; for a number, its digits
  std::vector<Json> items;                          // list
  std::vector<std::pair<std::string, Json>> fields; // object, in order

  const Json* find(const std::string& name) const {
    for (auto& [key, field] : fields)
      if (key == name) return &field;
    return nullptr;
  }
  const Json& at(const std::string& name) const {
    if (auto found = find(name)) return *found;
    refuse("model.json has no '" + name + "': copy the folder again");
  }
  double get(const std::string& name, double otherwise) const { auto found = find(name); return found ? found->value : otherwise; }
};

class JsonReader {
 public:
  static Json read(const fs::path& path) {
    std::string source = slurp(path);
    JsonReader reader{source};
    Json json = reader.any(0);
    reader.space();
    if (reader.at_ != source.size()) refuse(path.string() + " is not JSON");
    return json;
  }

 private:
  explicit JsonReader(const std::string& source) : source_(source) {}

  const std::string& source_;
  size_t at_ = 0;

  void space() { while (at_ < source_.size() && std::strchr(" \t\r\n", source_[at_])) at_++; }
  char peek() { space(); return at_ < source_.size() ? source_[at_] : '\0'; }
  void expect(const std::string& word) {
    if (source_.compare(at_, word.size(), word)) refuse("JSON is cut short or wrong at byte " + std::to_string(at_));
    at_ += word.size();
  }

  Json any(int depth) {
    if (depth > 64) refuse("JSON is nested too deep");
    Json json;
    switch (peek()) {
      case '{': {
        json.type = Json::object;
        at_++;
        for (bool first = true; peek() != '}'; first = false) {
          if (!first) expect(",");
          space();
          std::string name = text();
          space();
          expect(":");
          json.fields.emplace_back(name, any(depth + 1));
        }
        at_++;
        return json;
      }
      case '[':
        json.type = Json::list;
        at_++;
        for (bool first = true; peek() != ']'; first = false) {
          if (!first) expect(",");
          json.items.push_back(any(depth + 1));
        }
        at_++;
        return json;
      case '"': json.type = Json::text; json.string = text(); return json;
      case 't': expect("true"); json.type = Json::boolean; json.value = 1; return json;
      case 'f': expect("false"); json.type = Json::boolean; return json;
      case 'n': expect("null"); return json;
      default: {
        size_t end = source_.find_first_not_of("+-0123456789.eE", at_);
        json.type = Json::number;
        json.string = source_.substr(at_, end - at_);
        if (json.string.empty()) expect("a value");
        json.value = std::strtod(json.string.c_str(), nullptr);
        at_ = std::min(end, source_.size());
        return json;
      }
    }
  }

  std::string text() {
    expect("\"");
    std::string result;
    while (at_ < source_.size() && source_[at_] != '"') {
      char c = source_[at_++];
      if (c != '\\') { result += c; continue; }
      switch (c = source_[at_++]) {
        case 'n': result += '\n'; break;
        case 't': result += '\t'; break;
        case 'r': result += '\r'; break;
        case 'b': result += '\b'; break;
        case 'f': result += '\f'; break;
        case 'u': {
          uint32_t code = hex();
          if (code >= 0xD800 && code < 0xDC00 && source_.compare(at_, 2, "\\u") == 0) {
            at_ += 2;
            code = 0x10000 + ((code - 0xD800) << 10) + (hex() - 0xDC00);
          }
          utf8(result, code);
          break;
        }
        default: result += c;
      }
    }
    expect("\"");
    return result;
  }

  uint32_t hex() {
    uint32_t code = uint32_t(std::strtoul(source_.substr(at_, 4).c_str(), nullptr, 16));
    at_ += 4;
    return code;
  }

  static void utf8(std::string& out, uint32_t code) {
    if (code < 0x80) { out += char(code); return; }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    out += char((0xFF00 >> (more + 1) & 0xFF) | code >> 6 * more);  // 110, 1110 or 11110, then the upper bits
    while (more--) out += char(0x80 | (code >> 6 * more & 0x3F));
  }
};

// --- Arrays --------------------------------------------------------------------------------------------------------------

struct Array {
  std::variant<std::vector<uint8_t>, std::vector<int64_t>, std::vector<float>> data;
  Shape shape;

  std::string dtype() const { return std::vector<std::string>{"uint8", "int64", "float32"}[data.index()]; }
  size_t size() const { return std::visit([](auto& values) { return values.size(); }, data); }
  double at(size_t i) const { return std::visit([i](auto& values) { return double(values[i]); }, data); }
};

using Arrays = std::map<std::string, Array>;

size_t count(const Shape& shape) { size_t n = 1; for (auto length : shape) n *= size_t(length); return n; }

std::string show(const Shape& shape) {
  std::string text;
  for (auto length : shape) text += (text.empty() ? "" : ", ") + std::to_string(length);
  return "[" + text + "]";
}

std::string show(double value) { std::ostringstream text; text.precision(value == std::floor(value) ? 17 : 6); text << value; return text.str(); }

Array array_of(const std::string& dtype, Shape shape) {
  size_t n = count(shape);
  if (dtype == "uint8") return {std::vector<uint8_t>(n), shape};
  if (dtype == "int64") return {std::vector<int64_t>(n), shape};
  if (dtype == "float32") return {std::vector<float>(n), shape};
  refuse("arrays of " + dtype + " are not supported");
}

/** An array out of raw bytes; little-endian, as this machine must be. */
Array from_bytes(const std::string& dtype, Shape shape, const std::string& bytes, const std::string& name) {
  Array array = array_of(dtype, std::move(shape));
  std::visit([&](auto& values) {
    if (values.size() * sizeof(values[0]) != bytes.size()) refuse(name + " has " + std::to_string(bytes.size()) + " bytes: it is cut short or too long");
    std::memcpy(values.data(), bytes.data(), bytes.size());
  }, array.data);
  return array;
}

// --- What a host checks before it calls a graph --------------------------------------------------------------------------

std::string lower(std::string text) {
  for (char& c : text) if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
  return text;
}

/** Whether these bytes are UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF). */
bool is_utf8(const std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    uint8_t first = uint8_t(bytes[at++]);
    if (first < 0x80) continue;
    int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
    uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80, high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (first < 0xC2 || first > 0xF4) return false;
    for (; more > 0; more--, low = 0x80, high = 0xBF)
      if (at == bytes.size() || uint8_t(bytes[at]) < low || uint8_t(bytes[at++]) > high) return false;
  }
  return true;
}

std::string names_of(const Json& object) {
  std::string names;
  for (auto& [name, field] : object.fields) names += (names.empty() ? "" : ", ") + name;
  return names;
}

const std::set<std::string> CODECS{"pixels", "integers", "floats", "bytes"};

class Model {
 public:
  explicit Model(fs::path folder) : folder_(std::move(folder)), json_(JsonReader::read(folder_ / "model.json")) {}

  const Json& json() const { return json_; }

  const Json& task(const std::string& name) const {
    auto found = json_.at("tasks").find(name);
    if (!found) refuse("there is no task '" + name + "'; there are " + names_of(json_.at("tasks")));
    for (auto side : {"inputs", "outputs"})
      for (auto& [port, told] : found->at(side).fields)
        if (auto& codec = told.at("codec").string; !CODECS.count(codec))
          refuse("port " + port + " has the codec '" + codec + "', which this host does not know: export the model again with zoo " + told.at("since").string + " or newer");
    return *found;
  }

  /** One call: each port's value as text (numbers, class names, commas between several; text), or as an array in `arrays`. */
  Arrays run(const std::string& task_name, const std::map<std::string, std::string>& texts, Arrays arrays = {}) {
    const Json& ports = task(task_name).at("inputs");
    for (auto& [name, text] : texts)
      if (!ports.find(name)) refuse(task_name + " has no input '" + name + "'; it takes " + names_of(ports));
    for (auto& [name, port] : ports.fields) {
      if (arrays.count(name)) continue;
      if (auto given = texts.find(name); given != texts.end()) arrays[name] = parse(name, port, given->second);
      else if (auto preset = port.find("default")) arrays[name] = parse(name, port, preset->string);
      else refuse(name + " is missing: " + port.at("dtype").string);
    }
    std::map<std::string, int64_t> sizes;
    for (auto& [name, port] : ports.fields) {
      auto& dims = port.at("shape").items;
      auto& shape = arrays[name].shape;
      for (size_t i = 1; i <= std::min(dims.size(), shape.size()); i++)  // the last dimensions are there
        if (auto& dim = dims[dims.size() - i]; dim.type == Json::text) sizes[dim.string] = shape[shape.size() - i];
    }
    for (auto& [name, port] : ports.fields) {
      Shape wanted;
      for (auto& dim : port.at("shape").items) {
        auto found = sizes.find(dim.string);
        wanted.push_back(dim.type == Json::text ? (found == sizes.end() ? 1 : found->second) : int64_t(dim.value));
      }
      Array& array = arrays[name];
      if (array.shape.size() < wanted.size() && (port.get("repeats", 0) || port.at("codec").string == "bytes")) spread(array, wanted);
      check(name, port, array, wanted);
    }
    return call(task_name, arrays);
  }

  /** Texts as UTF-8, a row each, padded with zeros to the longest or to the port's fixed length. */
  static Array from_texts(const std::string& name, const Json& port, const std::vector<std::string>& texts) {
    auto& last = port.at("shape").items.back();
    size_t most = last.type == Json::text ? 0 : size_t(last.value), length = std::max<size_t>(1, most);
    for (auto& text : texts) {
      if (!is_utf8(text)) refuse(name + " is not UTF-8");
      if (text.find('\0') != std::string::npos) refuse(name + " contains a zero byte, which marks the end of a text");
      if (most && text.size() > most) refuse(name + " is " + std::to_string(text.size()) + " bytes of UTF-8; it must be at most " + std::to_string(most));
      length = std::max(length, text.size());
    }
    std::vector<uint8_t> rows(texts.size() * length);
    for (size_t i = 0; i < texts.size(); i++) std::copy(texts[i].begin(), texts[i].end(), rows.begin() + std::ptrdiff_t(i * length));
    return {rows, {int64_t(texts.size()), int64_t(length)}};
  }

  /** One text for the whole batch. */
  static Array from_text(const std::string& name, const Json& port, const std::string& text) {
    Array array = from_texts(name, port, {text});
    return {array.data, {array.shape[1]}};
  }

  /** Calls a graph with arrays that were checked. */
  Arrays call(const std::string& task_name, Arrays& inputs) {
    Ort::Session& session = open(task_name);
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<const char*> in, out;
    std::vector<Ort::Value> values;
    for (auto& [name, port] : task(task_name).at("inputs").fields) {
      Array& array = inputs.at(name);
      in.push_back(name.c_str());
      std::visit([&](auto& data) {
        values.push_back(Ort::Value::CreateTensor(memory, data.data(), data.size(), array.shape.data(), array.shape.size()));
      }, array.data);
    }
    auto& ports = task(task_name).at("outputs").fields;
    for (auto& [name, port] : ports) out.push_back(name.c_str());
    auto results = session.Run(Ort::RunOptions{nullptr}, in.data(), values.data(), in.size(), out.data(), out.size());
    Arrays outputs;
    for (size_t i = 0; i < results.size(); i++) {
      Array array = array_of(ports[i].second.at("dtype").string, results[i].GetTensorTypeAndShapeInfo().GetShape());
      std::visit([&](auto& data) {
        using Element = typename std::decay_t<decltype(data)>::value_type;
        std::copy_n(results[i].GetTensorData<Element>(), data.size(), data.begin());
      }, array.data);
      outputs.emplace(ports[i].first, std::move(array));
    }
    return outputs;
  }

  fs::path folder() const { return folder_; }

 private:
  /** One value for the whole batch: it does not have the first dimensions of the required shape. */
  static void spread(Array& array, const Shape& wanted) {
    Shape missing(wanted.begin(), wanted.end() - std::ptrdiff_t(array.shape.size()));
    std::visit([&](auto& values) {
      auto one = values;
      for (size_t i = 1; i < count(missing); i++) values.insert(values.end(), one.begin(), one.end());
    }, array.data);
    array.shape.insert(array.shape.begin(), missing.begin(), missing.end());
  }

  static Array parse(const std::string& name, const Json& port, const std::string& text) {
    if (port.at("codec").string == "bytes") return from_text(name, port, text);
    auto classes = port.find("classes");
    auto is_class = [&](const std::string& word) -> int64_t {
      if (classes)
        for (size_t i = 0; i < classes->items.size(); i++) if (lower(classes->items[i].string) == lower(word)) return int64_t(i);
      return -1;
    };
    std::vector<std::string> words;
    if (is_class(text) >= 0) words = {text};
    else { std::stringstream stream(text + ","); for (std::string word; std::getline(stream, word, ',');) words.push_back(word); }
    Array array = array_of(port.at("dtype").string, words.size() > 1 ? Shape{int64_t(words.size())} : Shape{});
    for (size_t i = 0; i < words.size(); i++) {
      const std::string& word = words[i];
      char* end = nullptr;
      if (int64_t number = is_class(word); number >= 0) std::get<std::vector<int64_t>>(array.data)[i] = number;
      else if (auto floats = std::get_if<std::vector<float>>(&array.data)) (*floats)[i] = std::strtof(word.c_str(), &end);
      else if (auto whole = std::get_if<std::vector<int64_t>>(&array.data)) (*whole)[i] = std::strtoll(word.c_str(), &end, 10);
      if (end && (end == word.c_str() || *end)) {
        std::string known;
        if (classes) for (auto& one : classes->items) known += (known.empty() ? "" : ", ") + one.string;
        refuse(name + " '" + word + "' is " + (classes ? "not a class of this model: " + known : "not a number"));
      }
    }
    return array;
  }

  static void check(const std::string& name, const Json& port, const Array& array, const Shape& wanted) {
    if (array.dtype() != port.at("dtype").string) refuse(name + " is " + array.dtype() + "; it must be " + port.at("dtype").string);
    if (array.shape != wanted || array.size() == 0) refuse(name + " has the shape " + show(array.shape) + "; it must be " + show(wanted) + ", equal for all inputs");
    double longest = port.get("maximum_frames", port.get("maximum_samples", 0));
    if (longest > 0 && double(array.shape[1]) > longest)
      refuse(name + " has " + std::to_string(array.shape[1]) + " " + port.at("shape").items[1].string + "; at most " + show(longest) + " are allowed");
    if (port.at("codec").string == "pixels") {
      int64_t height = wanted[wanted.size() - 3], width = wanted[wanted.size() - 2];
      double smallest = port.get("minimum_size", 1), most = port.get("maximum_pixels", 4e7);
      if (double(std::min(height, width)) < smallest || double(height) * double(width) > most)
        refuse(name + " is " + std::to_string(width) + "x" + std::to_string(height) + "; at least " + show(smallest) + " pixels per side, at most " + show(most) + " in all");
    }
    // 0.1 in model.json is not quite the closest float32.
    auto held = [&](double bound) { return array.dtype() == "float32" ? double(float(bound)) : bound; };
    double low = held(port.get("minimum", -INFINITY)), high = held(port.get("maximum", INFINITY));
    for (size_t i = 0; i < array.size(); i++)
      if (double value = array.at(i); !(value >= low && value <= high))
        refuse(name + " is " + show(value) + "; it must be " + show(port.get("minimum", -INFINITY)) + " .. " + show(port.get("maximum", INFINITY)));
  }

  Ort::Session& open(const std::string& task_name) {
    auto& session = sessions_[task_name];
    if (session) return *session;
    for (auto& [name, file] : json_.at("files").fields) {
      std::error_code error;
      auto size = fs::file_size(folder_ / "model" / name, error);
      if (error || double(size) != file.at("size").value)
        refuse("model/" + name + " has " + (error ? "no" : std::to_string(size)) + " bytes of " + file.at("size").string + ": copy the folder again");
    }
    static Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "model");
    session = std::make_unique<Ort::Session>(env, (folder_ / "model" / (task_name + ".onnx")).c_str(), Ort::SessionOptions{});
    return *session;
  }

  fs::path folder_;
  Json json_;
  std::map<std::string, std::unique_ptr<Ort::Session>> sessions_;
};

// --- Files ---------------------------------------------------------------------------------------------------------------

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  if (!file.write(bytes.data(), std::streamsize(bytes.size()))) refuse(path.string() + " cannot be written");
}

std::string bytes_of(const Array& array) {
  return std::visit([](auto& values) { return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(values[0])); }, array.data);
}

const std::string PNG = "\x89PNG\r\n\x1a\n";

std::string big_endian(uint32_t value) { return {char(value >> 24), char(value >> 16), char(value >> 8), char(value)}; }

uint32_t big_endian(const std::string& bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; i++) value = value << 8 | uint8_t(bytes.at(at + i));
  return value;
}

uint32_t crc32(const char* begin, const char* end) {
  uint32_t crc = 0xFFFFFFFF;
  for (; begin < end; begin++) {
    crc ^= uint8_t(*begin);
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
  }
  return ~crc;
}

uint32_t adler32(const std::string& bytes) {
  uint32_t a = 1, b = 0;
  for (uint8_t byte : bytes) { a = (a + byte) % 65521; b = (b + a) % 65521; }
  return b << 16 | a;
}

std::string png_chunk(const std::string& name, const std::string& body) {
  std::string whole = name + body;
  return big_endian(uint32_t(body.size())) + whole + big_endian(crc32(whole.data(), whole.data() + whole.size()));
}

/**
 * Decompresses zlib's format (RFC 1950 and 1951): what PNG needs, so that the program depends on nothing but ONNX Runtime.
 * Throws std::out_of_range or std::invalid_argument if the bytes are wrong, or give more or fewer than `size` bytes.
 */
class Inflate {
 public:
  static std::string read(const std::string& bytes, size_t size) {
    Inflate reader(bytes, size);
    if ((uint8_t(bytes.at(0)) & 15) != 8 || (uint8_t(bytes.at(0)) * 256 + uint8_t(bytes.at(1))) % 31 || bytes[1] & 32) refuse("not zlib's format");
    for (bool last = false; !last;) {
      last = reader.bits(1);
      switch (reader.bits(2)) {
        case 0: reader.stored(); break;
        case 1: reader.fixed(); break;
        case 2: reader.dynamic(); break;
        default: refuse("no such type of block");
      }
    }
    if (reader.out_.size() != size || big_endian(bytes, reader.at_) != adler32(reader.out_)) refuse("wrong size or checksum");
    return reader.out_;
  }

 private:
  /** A canonical Huffman code: how many codes there are of each length, and the symbols in the order of their codes. */
  struct Code {
    std::array<int, 16> counts{};
    std::vector<int> symbols;

    explicit Code(const std::vector<int>& lengths) {
      for (int length : lengths) counts[size_t(length)]++;
      counts[0] = 0;
      int room = 1;
      for (size_t length = 1; length < 16; length++)
        if ((room = 2 * room - counts[length]) < 0) refuse("more codes than there can be");
      for (int length = 1; length < 16; length++)
        for (size_t symbol = 0; symbol < lengths.size(); symbol++) if (lengths[symbol] == length) symbols.push_back(int(symbol));
    }
  };

  Inflate(const std::string& bytes, size_t size) : bytes_(bytes), size_(size) {}

  const std::string& bytes_;
  size_t size_, at_ = 2;
  uint32_t held_ = 0;  // bits of the byte before at_ that were not read yet
  int left_ = 0;       // how many
  std::string out_;

  int bits(int count) {
    int value = 0;
    for (int i = 0; i < count; i++, held_ >>= 1, left_--) {
      if (!left_) { held_ = uint8_t(bytes_.at(at_++)); left_ = 8; }
      value |= int(held_ & 1) << i;
    }
    return value;
  }

  int symbol(const Code& code) {
    int word = 0, first = 0, index = 0;  // the bits so far; the first code of this length, and its symbol's index
    for (size_t length = 1; length < 16; length++) {
      word |= bits(1);
      int count = code.counts[length];
      if (word - first < count) return code.symbols[size_t(index + word - first)];
      index += count;
      first = (first + count) << 1;
      word <<= 1;
    }
    refuse("no such code");
  }

  void put(char byte) {
    if (out_.size() == size_) refuse("more bytes than expected");
    out_ += byte;
  }

  void stored() {
    left_ = 0;  // the rest of the byte
    int length = bits(16), inverse = bits(16);
    if (length != (inverse ^ 0xFFFF)) refuse("a length is wrong");
    for (int i = 0; i < length; i++) put(bytes_.at(at_++));
  }

  void fixed() {
    std::vector<int> lengths(288, 8);
    std::fill(lengths.begin() + 144, lengths.begin() + 256, 9);
    std::fill(lengths.begin() + 256, lengths.begin() + 280, 7);
    block(Code(lengths), Code(std::vector<int>(30, 5)));
  }

  void dynamic() {
    const size_t order[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    size_t literals = 257 + size_t(bits(5)), distances = 1 + size_t(bits(5)), count = 4 + size_t(bits(4));
    std::vector<int> small(19), lengths;
    for (size_t i = 0; i < count; i++) small[order[i]] = bits(3);
    Code code(small);
    while (lengths.size() < literals + distances) {
      int next = symbol(code);
      if (next == 16 && lengths.empty()) refuse("nothing to repeat");
      if (next < 16) lengths.push_back(next);
      else if (next == 16) { int last = lengths.back(); lengths.insert(lengths.end(), size_t(3 + bits(2)), last); }
      else lengths.insert(lengths.end(), size_t(next == 17 ? 3 + bits(3) : 11 + bits(7)), 0);
    }
    auto middle = lengths.begin() + std::ptrdiff_t(literals), end = middle + std::ptrdiff_t(distances);
    if (end != lengths.end()) refuse("more lengths than symbols");
    block(Code({lengths.begin(), middle}), Code({middle, end}));
  }

  void block(const Code& literals, const Code& distances) {
    for (int next; (next = symbol(literals)) != 256;) {
      if (next < 256) { put(char(next)); continue; }
      if (next > 285) refuse("no such length");
      // Lengths 3 .. 10 have a symbol each; then four symbols for each further bit. 258 has its own.
      int step = next - 257, more = step < 8 || next == 285 ? 0 : step / 4 - 1;
      int length = next == 285 ? 258 : step < 8 ? step + 3 : 3 + ((4 + step % 4) << more) + bits(more);
      int far = symbol(distances);
      if (far > 29) refuse("no such distance");
      int extra = far < 4 ? 0 : far / 2 - 1;
      size_t distance = size_t(far < 4 ? far + 1 : 1 + ((2 + far % 2) << extra) + bits(extra));
      if (distance > out_.size()) refuse("a distance before the first byte");
      while (length--) put(out_[out_.size() - distance]);
    }
  }
};

/** The neighbour that is closest to left + up - corner. */
int paeth(int left, int up, int corner) {
  int a = std::abs(up - corner), b = std::abs(left - corner), c = std::abs(left + up - 2 * corner);
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/** The pixels, uint8 [1, height, width, 1 or 3]. Reads 8-bit grey and RGB; an alpha channel must be opaque. */
Array read_png(const Json& port, const std::string& path, const std::string& bytes) {
  const std::string damaged = path + " is damaged";
  std::string name, head, compressed;
  bool transparent = false;
  for (size_t at = 8; name != "IEND";) {
    if (at + 12 > bytes.size()) refuse(damaged);
    size_t length = big_endian(bytes, at);
    if (length > bytes.size() - at - 12) refuse(damaged);
    if (crc32(&bytes[at + 4], &bytes[at + 8 + length]) != big_endian(bytes, at + 8 + length)) refuse(damaged);
    name = bytes.substr(at + 4, 4);
    if (at == 8 && (name != "IHDR" || length != 13)) refuse(damaged);
    if (at == 8) head = bytes.substr(16, 13);
    if (name == "IDAT") compressed.append(bytes, at + 8, length);
    transparent |= name == "tRNS";
    at += length + 12;
  }
  uint64_t width = big_endian(head, 0), height = big_endian(head, 4);
  size_t channels = std::map<int, size_t>{{0, 1}, {2, 3}, {4, 2}, {6, 4}}[head[9]];
  if (head[8] != 8 || !channels || head[12]) refuse(path + " must be a PNG with 8 bits per channel, grey or RGB, not interlaced");
  double most = port.get("maximum_pixels", 4e7);
  if (!width || !height || double(width) * double(height) > most)  // before memory is taken for them
    refuse(path + " is " + std::to_string(width) + "x" + std::to_string(height) + "; at most " + show(most) + " pixels in all");
  size_t row = size_t(width) * channels;
  std::string raw;
  try {
    raw = Inflate::read(compressed, size_t(height) * (1 + row));
  } catch (const std::logic_error&) {
    refuse(damaged);
  }
  // Each byte is the difference to the pixel on its left, the one above or both (PNG specification, 9).
  std::vector<uint8_t> pixels(size_t(height) * row);
  for (size_t y = 0; y < height; y++) {
    char filter = raw[y * (1 + row)];
    if (filter < 0 || filter > 4) refuse(damaged);
    for (size_t x = 0; x < row; x++) {
      size_t at = y * row + x;
      int left = x < channels ? 0 : pixels[at - channels], up = y ? pixels[at - row] : 0;
      int corner = y && x >= channels ? pixels[at - row - channels] : 0;
      int near = filter == 0 ? 0 : filter == 1 ? left : filter == 2 ? up : filter == 3 ? (left + up) / 2 : paeth(left, up, corner);
      pixels[at] = uint8_t(uint8_t(raw[y * (1 + row) + 1 + x]) + near);
    }
  }
  if (channels % 2 == 0) {
    std::vector<uint8_t> opaque;
    for (size_t i = 0; i < pixels.size(); i++)
      if (i % channels + 1 < channels) opaque.push_back(pixels[i]);
      else transparent |= pixels[i] < 255;
    pixels = std::move(opaque);
    channels--;
  }
  if (transparent) refuse(path + " is partly transparent: save it without transparency");
  return {std::move(pixels), {1, int64_t(height), int64_t(width), int64_t(channels)}};
}

/** Grey as RGB where the port takes RGB, and RGB as grey if it contains nothing else. */
Array to_channels(const Json& port, const std::string& path, Array picture) {
  auto pixels = std::get_if<std::vector<uint8_t>>(&picture.data);
  auto& dims = port.at("shape").items;
  int64_t wanted = dims.empty() ? 0 : int64_t(dims.back().value);
  std::vector<uint8_t> changed;
  if (picture.shape.back() == 1 && wanted == 3) {
    for (uint8_t level : *pixels) changed.insert(changed.end(), 3, level);
  } else if (picture.shape.back() == 3 && wanted == 1) {
    for (size_t i = 0; i < pixels->size(); i += 3) {
      if ((*pixels)[i] != (*pixels)[i + 1] || (*pixels)[i] != (*pixels)[i + 2]) refuse(path + " is in colour; this task takes grey pictures");
      changed.push_back((*pixels)[i]);
    }
  } else {
    return picture;
  }
  picture.shape.back() = wanted;
  return {std::move(changed), picture.shape};
}

/** A picture out of PNG, PGM or PPM (P5, P6, 8 bits), or an array out of .npy. */
Array read_array(const Json& port, const std::string& path) {
  std::string bytes = slurp(path);
  if (bytes.compare(0, 8, PNG) == 0) return to_channels(port, path, read_png(port, path, bytes));
  if (bytes.compare(0, 6, "\x93NUMPY") == 0 && bytes.size() > 10) {
    size_t end = 10 + uint8_t(bytes[8]) + 256 * uint8_t(bytes[9]);
    std::string head = bytes.substr(10, end - 10);
    std::map<std::string, std::string> known{{"'|u1'", "uint8"}, {"'<i8'", "int64"}, {"'<f4'", "float32"}};
    for (auto& [descr, dtype] : known) {
      if (head.find(descr) == std::string::npos || head.find("True") != std::string::npos) continue;
      Shape shape;
      std::stringstream list(head.substr(head.find('(') + 1));
      for (std::string word; std::getline(list, word, ',') && word.find_first_of("0123456789") != std::string::npos;) {
        shape.push_back(std::stoll(word));
        if (word.find(')') != std::string::npos) break;
      }
      return from_bytes(dtype, shape, bytes.substr(end), path);
    }
    refuse(path + " is not a C-ordered array of uint8, int64 or float32");
  }
  std::istringstream head(bytes);
  std::string magic;
  int64_t width = 0, height = 0, levels = 0;
  head >> magic >> width >> height >> levels;
  if ((magic != "P5" && magic != "P6") || levels != 255 || width < 1 || height < 1) refuse(path + " is not a PNG, an 8-bit PGM or PPM, or a .npy file");
  return to_channels(port, path, from_bytes("uint8", {1, height, width, magic == "P5" ? 1 : 3}, bytes.substr(size_t(head.tellg()) + 1), path));
}

/** uint8 [batch, height, width, 1 or 3] as one PNG, the pictures one below the other; not compressed. */
std::string png(const Array& pictures) {
  size_t rows = size_t(pictures.shape[0] * pictures.shape[1]), row = size_t(pictures.shape[2] * pictures.shape[3]);
  std::string pixels = bytes_of(pictures), raw, deflated = "\x78\x01";
  for (size_t y = 0; y < rows; y++) raw += '\0' + pixels.substr(y * row, row);
  for (size_t at = 0; at < raw.size(); at += 65535) {
    uint16_t length = uint16_t(std::min<size_t>(65535, raw.size() - at)), inverse = uint16_t(~length);
    deflated += char(at + length == raw.size());
    for (uint16_t number : {length, inverse}) { deflated += char(number & 0xFF); deflated += char(number >> 8); }
    deflated += raw.substr(at, length);
  }
  deflated += big_endian(adler32(raw));
  std::string head = big_endian(uint32_t(pictures.shape[2])) + big_endian(uint32_t(rows)) + char(8) + char(pictures.shape[3] == 3 ? 2 : 0) + std::string(3, '\0');
  return PNG + png_chunk("IHDR", head) + png_chunk("IDAT", deflated) + png_chunk("IEND", "");
}

std::string npy(const Array& array) {
  std::string descr = array.dtype() == "uint8" ? "|u1" : array.dtype() == "int64" ? "<i8" : "<f4", shape;
  for (auto length : array.shape) shape += std::to_string(length) + ",";
  std::string head = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  head.resize((head.size() + 11 + 63) / 64 * 64 - 11, ' ');
  head += '\n';
  return std::string("\x93NUMPY\x01\0", 8) + char(head.size() & 0xFF) + char(head.size() >> 8) + head + bytes_of(array);
}

// --- The golden cases ----------------------------------------------------------------------------------------------------

Array read_raw(const Model& model, const Json& raw) {
  Shape shape;
  for (auto& length : raw.at("shape").items) shape.push_back(int64_t(length.value));
  auto& file = raw.at("file").string;
  return from_bytes(raw.at("dtype").string, shape, slurp(model.folder() / "golden" / file), file);
}

/** Runs the golden cases; throws if one is off by more than the model's tolerance. Keeps the outputs in `out`. */
void verify(Model& model, const std::string& out) {
  auto precision = model.json().at("export").find("precision");
  auto& tolerance = model.json().at("tolerances").at((precision ? precision->string : "float32") + "/cpu");
  for (auto& golden : JsonReader::read(model.folder() / "golden" / "cases.json").items) {
    Arrays inputs;
    for (auto& [name, raw] : golden.at("inputs").fields) inputs[name] = read_raw(model, raw);
    Arrays outputs = model.call(golden.at("task").string, inputs);
    for (auto& [name, raw] : golden.at("outputs").fields) {
      auto& codec = model.task(golden.at("task").string).at("outputs").at(name).at("codec").string;
      Array expected = read_raw(model, raw), &actual = outputs.at(name);
      double worst = actual.shape == expected.shape ? 0 : INFINITY;
      size_t equal = 0, near = 0;
      bool same = actual.shape == expected.shape;
      for (size_t i = 0; same && i < expected.size(); i++) {
        double wanted = expected.at(i), apart = std::abs(actual.at(i) - wanted);
        worst = std::max(worst, apart);
        equal += apart == 0;
        near += apart <= tolerance.get("pixel_levels", 1);
        if (codec == "floats" && !(apart <= tolerance.get("absolute", 0) + tolerance.get("relative", 0) * std::abs(wanted))) same = false;
      }
      double total = double(expected.size());
      if (codec == "pixels") same &= near / total >= tolerance.get("pixel_share", 1) && worst <= tolerance.get("pixel_levels_worst", 0);
      if (codec == "integers" || codec == "bytes") same &= worst == 0;
      std::cout << golden.at("task").string << ' ' << golden.at("case").string << ' ' << name << ": worst " << worst << ", " << 100 * double(equal) / total << "% equal\n";
      if (!out.empty()) write_file(fs::path(out) / raw.at("file").string, bytes_of(actual));
      else if (!same) throw std::runtime_error("the outputs differ");
    }
  }
}

// --- The command line ----------------------------------------------------------------------------------------------------

void open_runtime() {
  // Read by ONNX Runtime, which otherwise writes a device id into the home folder and sends usage data.
  const char* telemetry = std::getenv("ORT_DISABLE_TELEMETRY");
  if (!telemetry || !*telemetry) setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  const char* chosen = std::getenv("ONNXRUNTIME_LIBRARY");
  const char* library = chosen ? chosen : ONNXRUNTIME_LIBRARY;
  void* handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
  if (!handle) throw std::runtime_error("ONNX Runtime's library cannot be opened: " + std::string(dlerror()));
  auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  const OrtApi* api = base ? base()->GetApi(ORT_API_VERSION) : nullptr;
  if (!api) throw std::runtime_error(std::string(library) + " is older than the headers that this program was compiled with");
  Ort::InitApi(api);
}

const std::string COMMAND = "build/run";

/** Whether there is a --help where a task or an option's name may be. */
bool asks_for_help(const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); i += i ? 2 : 1) if (words[i] == "--help" || words[i] == "-h") return true;
  return words.empty();
}

std::string takes(const Json& port) {
  auto& codec = port.at("codec").string;
  if (codec == "bytes") {
    auto& most = port.at("shape").items.back();
    return "TEXT or @FILE, a text per line" + (most.type == Json::text ? "" : ": at most " + show(most.value) + " bytes of UTF-8");
  }
  auto word = [&](const std::string& name, const std::string& otherwise) { auto found = port.find(name); return found ? found->string : otherwise; };
  auto& dims = port.at("shape").items;
  std::string array;
  for (auto& dim : dims) array += (array.empty() ? "" : ", ") + dim.string;
  array = port.at("dtype").string + " [" + array + "]";
  if (codec == "pixels") {
    std::string limits;
    if (port.find("minimum_size")) limits += "; at least " + word("minimum_size", "") + " pixels per side";
    if (port.find("maximum_pixels")) limits += (limits.empty() ? "; at most " : ", at most ") + word("maximum_pixels", "") + " in all";
    return "FILE (PNG, PGM, PPM or .npy): " + array + limits;
  }
  std::string text = (dims.size() < 2 ? "VALUE: " : "FILE.npy: ") + array;
  if (port.find("minimum") || port.find("maximum")) text += ", " + word("minimum", "any") + " .. " + word("maximum", "any");
  if (auto classes = port.find("classes"); classes && !classes->items.empty()) {
    size_t count = classes->items.size();
    for (size_t i = 0; i < std::min<size_t>(20, count); i++) text += (i ? ", " : ", or a class: ") + classes->items[i].string;
    if (count > 20) text += ", ... (" + std::to_string(count) + " classes)";
  }
  return text + (port.find("default") ? "; default " + word("default", "") : "");
}

std::string example(const std::string& name, const Json& task, const Json& cases) {
  std::string text = COMMAND + " " + name, out;
  const Json* inputs = nullptr;
  for (auto& golden : cases.items) if (!inputs && golden.at("task").string == name) inputs = &golden.at("inputs");
  for (auto& [port, told] : task.at("inputs").fields) {
    if (told.find("default") && (told.at("codec").string != "bytes" || told.at("sample").string.empty())) continue;
    auto raw = inputs ? inputs->find(port) : nullptr;
    bool single = told.find("repeats") || told.at("codec").string == "bytes" || !raw;
    text += " --" + port + " " + (single ? told.at("sample").string : "golden/" + raw->at("file").string);
  }
  for (auto& [port, told] : task.at("outputs").fields)
    if (out.empty() && told.at("codec").string == "pixels" && told.at("shape").items.size() == 4) out = port + ".png";
  return text + " --out " + (out.empty() ? task.at("outputs").fields.at(0).first + ".npy" : out);
}

/** What --help prints: the inputs of a task, or of all, with their ranges, and for each an example that works. */
std::string usage(const Model& model, const std::string& only) {
  const Json cases = JsonReader::read(model.folder() / "golden" / "cases.json");
  auto line = [](std::string text) {  // without the characters that control a terminal
    for (char& c : text) if (uint8_t(c) < 32 || c == 127) c = ' ';
    for (size_t i = 0; i + 1 < text.size(); i++) if (text[i] == '\xC2' && uint8_t(text[i + 1]) < 0xA0) text.replace(i, 2, " ");
    return text + "\n";
  };
  auto& json = model.json();
  std::string text = line(json.at("name").string + " " + json.at("version").string + ": " + json.at("summary").string);
  text += "\nusage: " + COMMAND + " TASK --PORT VALUE ... [--out FILE.png or FILE.npy]\n       " + COMMAND + " verify\n";
  for (auto& [name, unused] : json.at("tasks").fields) {
    if (!only.empty() && name != only) continue;
    auto& task = model.task(name);
    text += "\n" + line(name + ": " + task.at("summary").string);
    for (auto& [port, told] : task.at("inputs").fields) text += line("  --" + port + " " + takes(told));
    text += line("  gives " + names_of(task.at("outputs"))) + line("  example: " + example(name, task, cases));
  }
  return text;
}

/** The array of a golden case's input, if `text` is its path: golden/FILE. */
const Json* golden_input(const Json& cases, const std::string& text) {
  for (auto& golden : cases.items)
    for (auto& [name, raw] : golden.at("inputs").fields) if (text == "golden/" + raw.at("file").string) return &raw;
  return nullptr;
}

/** The texts that a word stands for: itself; @FILE: the file's lines; @@…: a text that begins with an at sign. */
std::vector<std::string> read_texts(const std::string& word) {
  if (word.compare(0, 1, "@")) return {word};
  if (!word.compare(0, 2, "@@")) return {word.substr(1)};
  std::string path = word.substr(1), whole = slurp(path), line;
  if (!is_utf8(whole)) refuse(path + " is not UTF-8");
  if (!whole.compare(0, 3, "\xEF\xBB\xBF")) whole.erase(0, 3);  // a byte order mark is no part of the text
  std::vector<std::string> lines;
  for (std::istringstream stream(whole); std::getline(stream, line);) {
    size_t start = line.find_first_not_of(" \t\r\v\f");
    if (start != std::string::npos) lines.push_back(line.substr(start, line.find_last_not_of(" \t\r\v\f") + 1 - start));
  }
  if (lines.empty()) refuse(path + " contains no text");
  return lines;
}

void command(std::vector<std::string> words) {
  Model model(std::getenv("MODEL_FOLDER") ? std::getenv("MODEL_FOLDER") : MODEL_FOLDER);
  std::string task = words.empty() ? "" : words[0], out;
  if (asks_for_help(words)) {
    bool all = task.empty() || task == "--help" || task == "-h" || task == "verify";
    if (!all) model.task(task);
    std::cout << usage(model, all ? "" : task);
    return;
  }
  open_runtime();
  std::map<std::string, std::string> texts;
  std::map<std::string, std::vector<std::string>> given_words;
  for (size_t i = 1; i < words.size(); i += 2) {
    if (words[i].compare(0, 2, "--") || i + 1 == words.size()) refuse("options must look like --port value, not '" + words[i] + "'");
    texts[words[i].substr(2)] = words[i + 1];
    given_words[words[i].substr(2)].push_back(words[i + 1]);
  }
  if (auto found = texts.find("out"); found != texts.end()) { out = found->second; texts.erase(found); }
  if (task == "verify") return verify(model, out);
  if (!out.empty() && fs::path(out).extension() != ".png" && fs::path(out).extension() != ".npy") refuse(out + " must end in .png or .npy");
  const Json cases = JsonReader::read(model.folder() / "golden" / "cases.json");
  Arrays arrays;
  for (auto& [name, port] : model.task(task).at("inputs").fields) {
    auto given = texts.find(name);
    if (given == texts.end()) continue;
    auto& [option, text] = *given;
    auto& codec = port.at("codec").string;
    if (auto raw = golden_input(cases, text)) {
      arrays[name] = read_raw(model, *raw);
      texts.erase(given);
    } else if (codec == "pixels" || fs::path(text).extension() == ".npy") {
      arrays[name] = read_array(port, text);
      texts.erase(given);
    } else if (codec == "bytes") {
      std::vector<std::string> all;
      for (auto& word : given_words[name]) for (auto& one : read_texts(word)) all.push_back(one);
      arrays[name] = all.size() > 1 ? Model::from_texts(name, port, all) : Model::from_text(name, port, all[0]);
      texts.erase(given);
    }
  }
  Arrays outputs = model.run(task, texts, arrays);
  for (auto& [name, port] : model.task(task).at("outputs").fields) {
    auto& array = outputs.at(name);
    auto suffix = fs::path(out).extension();
    if (suffix == ".png" && port.find("frame_rate")) refuse(name + " is a video, which this host writes as .npy");
    bool picture = suffix == ".png" && port.at("codec").string == "pixels" && array.shape.size() == 4;
    if (picture || suffix == ".npy") {
      write_file(out, picture ? png(array) : npy(array));
      out.clear();
    } else {
      std::cout << "{\"" << name << "\": [";
      for (size_t i = 0; i < array.size(); i++) std::cout << (i ? ", " : "") << show(array.at(i));
      std::cout << "]}\n";
    }
  }
}

int main(int count, char** words) {
  try {
    command({words + 1, words + count});
    return 0;
  } catch (const std::exception& error) {
    std::string line = error.what();
    std::cerr << "Error: " << line.substr(0, line.find('\n')) << '\n';
    return 1;
  }
}
