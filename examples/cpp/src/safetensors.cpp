#include "safetensors.hpp"

#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "error.hpp"

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the file's values are little-endian");

const Tensor& Recording::at(const std::string& name) const {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw RunError("the golden run has no '" + name + "'");
    return found->second;
}

const std::string& Recording::made_with(const std::string& key) const {
    const auto found = metadata.find(key);
    if (found == metadata.end()) throw RunError("the golden run does not say its " + key);
    return found->second;
}

/// The bytes as values, copied: they need not lie where numbers may.
template <typename Value>
static Tensor values_of(const Shape& shape, const char* bytes, uint64_t size) {
    uint64_t expected = sizeof(Value);
    for (int64_t dimension : shape) {
        if (dimension < 0 || __builtin_mul_overflow(expected, static_cast<uint64_t>(dimension), &expected)) {
            throw RunError("a shape is impossible");
        }
    }
    if (size != expected) throw RunError("a tensor's bytes do not fit its shape");
    std::vector<Value> values(size / sizeof(Value));
    if (size > 0) std::memcpy(values.data(), bytes, size);
    return {shape, std::move(values)};
}

static Tensor tensor_of(const json& entry, const char* body, uint64_t size) {
    const auto offsets = entry.at("data_offsets").get<std::vector<uint64_t>>();
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > size) {
        throw RunError("a tensor lies outside of it");
    }
    const auto shape = entry.at("shape").get<Shape>();
    const auto type = entry.at("dtype").get<std::string>();
    const char* bytes = body + offsets[0];
    if (type == "F32") return values_of<float>(shape, bytes, offsets[1] - offsets[0]);
    if (type == "I64") return values_of<int64_t>(shape, bytes, offsets[1] - offsets[0]);
    throw RunError("a tensor is of type " + type);
}

static Recording parsed(const std::string& bytes) {
    uint64_t length = 0;
    if (bytes.size() < sizeof length) throw RunError("it is too short");
    std::memcpy(&length, bytes.data(), sizeof length);
    const uint64_t rest = bytes.size() - sizeof length;
    if (length > rest) throw RunError("its header is longer than the file");
    const char* start = bytes.data() + sizeof length;
    Recording recording;
    // A name, since a range over the items() of a temporary outlives it.
    const json header = json::parse(start, start + length);
    for (const auto& [name, entry] : header.items()) {
        if (name == "__metadata__") {
            entry.get_to(recording.metadata);
        } else {
            recording.tensors[name] = tensor_of(entry, start + length, rest - length);
        }
    }
    return recording;
}

Recording read_safetensors(const std::string& bytes, const std::string& what) {
    try {
        return parsed(bytes);
    } catch (const RunError& error) {
        throw RunError(what + " is damaged: " + error.what());
    } catch (const json::exception& error) {
        throw RunError(what + " is damaged: " + one_line(error.what()));
    }
}
