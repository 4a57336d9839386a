#include "paths.hpp"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace spikeformers {
namespace {

#if defined(__x86_64__)
std::string missing_avx2() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2")) return "avx2";
  if (!__builtin_cpu_supports("bmi2")) return "bmi2";
  unsigned a = 0, b = 0, c = 0, d = 0;  // not every compiler knows "f16c" by name
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_F16C) == 0) return "f16c";
  return "";
}

std::string missing_avx512() {
  if (!missing_avx2().empty()) return missing_avx2();
  if (!__builtin_cpu_supports("avx512f")) return "avx512f";
  if (!__builtin_cpu_supports("avx512bw")) return "avx512bw";
  if (!__builtin_cpu_supports("avx512dq")) return "avx512dq";
  if (!__builtin_cpu_supports("avx512vl")) return "avx512vl";
  if (!__builtin_cpu_supports("avx512vnni")) return "avx512vnni";
  return "";
}

Path x86_path(const char* name, const Kernels* kernels, const std::string& missing) {
  if (missing.empty()) return {name, kernels, "this processor has its instructions"};
  return {name, nullptr, "this processor lacks " + missing};
}
#endif

std::vector<Path> find_paths() {
  std::vector<Path> found;
#if defined(__x86_64__)
  found.push_back(x86_path("avx512", avx512_kernels(), missing_avx512()));
  found.push_back(x86_path("avx2", avx2_kernels(), missing_avx2()));
#else
  found.push_back({"avx512", nullptr, "it is for x86-64 processors"});
  found.push_back({"avx2", nullptr, "it is for x86-64 processors"});
#endif
#if defined(__aarch64__)
  found.push_back({"neon", neon_kernels(), "every aarch64 processor has its instructions"});
#else
  found.push_back({"neon", nullptr, "it is for aarch64 processors"});
#endif
  found.push_back({"portable", portable_kernels(), "runs anywhere"});
  return found;
}

}  // namespace

const std::vector<Path>& paths() {
  static const std::vector<Path> found = find_paths();
  return found;
}

const Path& choose_path(const std::string& name) {
  std::string known;
  for (const Path& path : paths()) {
    if (name == "auto" ? path.kernels != nullptr : path.name == name) {
      if (path.kernels != nullptr) return path;
      throw std::invalid_argument("kernels[" + name + "]: " + path.reason +
                                  ". 'auto' takes the best that runs here.");
    }
    known += (known.empty() ? "" : ", ") + path.name;
  }
  throw std::invalid_argument("kernels[" + name + "]: no such path; there are auto, " + known + ".");
}

}  // namespace spikeformers
