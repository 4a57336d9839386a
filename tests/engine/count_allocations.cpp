// Preloaded into a process, counts what its C++ code allocates: test_allocations.py.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

std::atomic<long> made{0};

void* counted(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) {
  made.fetch_add(1);
  const std::size_t whole = (size + alignment) / alignment * alignment;
  return std::aligned_alloc(alignment, whole);
}

void* counted_or_thrown(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) {
  if (void* found = counted(size, alignment)) return found;
  throw std::bad_alloc();
}

}  // namespace

extern "C" long allocations() { return made.load(); }

void* operator new(std::size_t size) { return counted_or_thrown(size); }
void* operator new[](std::size_t size) { return counted_or_thrown(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return counted(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return counted(size); }
void* operator new(std::size_t size, std::align_val_t to) { return counted_or_thrown(size, std::size_t(to)); }
void* operator new[](std::size_t size, std::align_val_t to) { return counted_or_thrown(size, std::size_t(to)); }
void operator delete(void* given) noexcept { std::free(given); }
void operator delete[](void* given) noexcept { std::free(given); }
void operator delete(void* given, std::size_t) noexcept { std::free(given); }
void operator delete[](void* given, std::size_t) noexcept { std::free(given); }
void operator delete(void* given, std::align_val_t) noexcept { std::free(given); }
void operator delete[](void* given, std::align_val_t) noexcept { std::free(given); }
void operator delete(void* given, std::size_t, std::align_val_t) noexcept { std::free(given); }
void operator delete[](void* given, std::size_t, std::align_val_t) noexcept { std::free(given); }
