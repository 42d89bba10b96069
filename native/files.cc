// Files: memory mapping and advisory locks.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "register.h"
#include "simd.h"

namespace halftone {
namespace {

Napi::Error SystemError(Napi::Env env, const char* call, const std::string& path, int code) {
  auto error = Napi::Error::New(env, std::string(call) + " '" + path + "': " + std::strerror(code));
  error.Set("errno", Napi::Number::New(env, -code));
  error.Set("syscall", Napi::String::New(env, call));
  if (code == ENOENT) error.Set("code", Napi::String::New(env, "ENOENT"));
  if (code == EACCES) error.Set("code", Napi::String::New(env, "EACCES"));
  if (code == EBADF) error.Set("code", Napi::String::New(env, "EBADF"));
  if (code == ENOLCK) error.Set("code", Napi::String::New(env, "ENOLCK"));
  if (code == ENOMEM) error.Set("code", Napi::String::New(env, "ENOMEM"));
  return error;
}

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) close(fd);
  }
};

/** (path, offset, length or −1 for the rest, the longest array that JavaScript can have) → Uint8Array. */
Napi::Value MapFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string path = info[0].As<Napi::String>();
  const int64_t offset = info[1].As<Napi::Number>().Int64Value();
  int64_t length = info[2].As<Napi::Number>().Int64Value();

  const FileDescriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) throw SystemError(env, "open", path, errno);
  struct stat status;
  if (fstat(file.fd, &status) != 0) throw SystemError(env, "fstat", path, errno);
  if (!S_ISREG(status.st_mode)) throw Napi::Error::New(env, "mapFile: '" + path + "' is not a regular file");
  const int64_t size = status.st_size;
  if (length < 0) length = size - offset;
  if (offset > size || length < 0 || length > size - offset)
    throw Napi::RangeError::New(env, "mapFile: bytes " + std::to_string(offset) + " to " + std::to_string(offset + length) +
                                         " are outside '" + path + "', which has " + std::to_string(size));
  if (length > info[3].As<Napi::Number>().Int64Value())
    throw Napi::RangeError::New(env, "mapFile: " + std::to_string(length) + " bytes of '" + path + "' are more than one array can hold; map it in parts");
  if (length == 0) return Napi::Uint8Array::New(env, 0);

  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t start = offset - offset % page;
  const size_t lead = static_cast<size_t>(offset - start);
  const size_t mapped = static_cast<size_t>(length) + lead;
  void* base = mmap(nullptr, mapped, PROT_READ, MAP_PRIVATE, file.fd, start);
  if (base == MAP_FAILED) throw SystemError(env, "mmap", path, errno);
  // The view starts `lead` bytes into the buffer, so that its byteOffset is aligned as the file's offset is.
  auto buffer = Napi::ArrayBuffer::New(env, base, mapped, [mapped](Napi::Env, void* data) { munmap(data, mapped); });
  return Napi::Uint8Array::New(env, static_cast<size_t>(length), buffer, lead);
}

/** (fd, 'shared' | 'exclusive' | 'unlock') → true, or false when another holds it. Never blocks. */
Napi::Value TryLock(const Napi::CallbackInfo& info) {
  const int fd = info[0].As<Napi::Number>().Int32Value();
  const std::string mode = info[1].As<Napi::String>();
  const int operation = mode == "unlock" ? LOCK_UN : (mode == "shared" ? LOCK_SH : LOCK_EX) | LOCK_NB;
  int code;
  do {
    code = flock(fd, operation) == 0 ? 0 : errno;
  } while (code == EINTR);
  if (code != 0 && code != EWOULDBLOCK) throw SystemError(info.Env(), "flock", "fd " + std::to_string(fd), code);
  return Napi::Boolean::New(info.Env(), code == 0);
}

}  // namespace
}  // namespace halftone

void RegisterFiles(Napi::Env env, Napi::Object exports) {
  exports["mapFile"] = Napi::Function::New(env, halftone::MapFile, "mapFile");
  exports["tryLock"] = Napi::Function::New(env, halftone::TryLock, "tryLock");
}
