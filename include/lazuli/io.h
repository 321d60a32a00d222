// Reading and writing arrays: NumPy's .npy and .npz, and safetensors.
//
//     lazuli::save("a.npy", a);
//     array b = lazuli::load("a.npy");
//     lazuli::save_safetensors("model", {{"weight", w}, {"bias", b}}, {{"epoch", "3"}});
//     auto [arrays, metadata] = lazuli::load_safetensors("model.safetensors");
//
// Writing by file name is atomic: data goes to a temporary file in the same folder, which
// is flushed to disk and then takes the name, so a crash or a full disk leaves the old file
// as it was. The extension is appended if the name lacks it. Arrays are evaluated first.
//
// Reading checks everything before it allocates: headers, sizes against the file, names,
// offsets. Files above 4 MB are mapped, not read: loading costs microseconds and pages
// arrive as values are used. A mapped file must not be truncated or written in place by
// others while its arrays live (saving over it with the functions here is fine).
//
// Errors: std::runtime_error naming the file, and the key where there is one;
// std::invalid_argument for names or metadata that the format cannot hold.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "lazuli/array.h"
#include "lazuli/io/stream.h"

namespace lazuli {

// ---- .npy: one array ----

// Versions 1 to 3, either byte order, C or Fortran order. bfloat16 is stored as NumPy's
// ml_dtypes and MLX store it ("V2"). Structured types, objects, strings and complex128
// are refused.
array load(std::string file, StreamOrDevice s = Where::current());
// Reads one array at the stream's position and leaves the position behind it.
array load(std::shared_ptr<io::Reader> in_stream, StreamOrDevice s = Where::current());

void save(std::string file, array a);
void save(std::shared_ptr<io::Writer> out_stream, array a);

// ---- .safetensors: named arrays, and metadata that maps strings to strings ----

using SafetensorsLoad =
    std::pair<std::unordered_map<std::string, array>, std::unordered_map<std::string, std::string>>;

// Accepts exactly what the format allows: tensors must neither overlap nor leave gaps.
// 8-bit and smaller floats are refused by name.
SafetensorsLoad load_safetensors(const std::string& file, StreamOrDevice s = Where::current());
// Reads from the stream's position to its end.
SafetensorsLoad load_safetensors(std::shared_ptr<io::Reader> in_stream, StreamOrDevice s = Where::current());

// The bytes depend only on the arguments: tensors go by item size (so that each is
// aligned), then by name; metadata by key. Data begins at a multiple of 64 bytes.
void save_safetensors(std::string file, std::unordered_map<std::string, array> arrays,
                      std::unordered_map<std::string, std::string> metadata = {});
void save_safetensors(std::shared_ptr<io::Writer> out_stream, std::unordered_map<std::string, array> arrays,
                      std::unordered_map<std::string, std::string> metadata = {});

// ---- .npz: named .npy files in a zip archive ----

// Stored and deflated members, zip64 included; every member's checksum is verified.
std::unordered_map<std::string, array> load_npz(const std::string& file, StreamOrDevice s = Where::current());
void savez(std::string file, std::unordered_map<std::string, array> arrays);
void savez_compressed(std::string file, std::unordered_map<std::string, array> arrays);

}  // namespace lazuli
