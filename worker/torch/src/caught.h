// How functions that Rust calls tell of errors: none lets an exception out.
#pragma once

#include <exception>
#include <string>

// Nothing where `work` succeeded, else a text that the present thread's next call overwrites.
template <typename Work>
const char* caught(Work&& work) noexcept {
  static thread_local std::string text;
  try {
    try {
      work();
      return nullptr;
    } catch (const std::exception& error) {
      text = error.what();
    }
    return text.c_str();
  } catch (const std::bad_alloc&) {
    return "out of memory, for the text of an error, too";
  } catch (...) {
    return "an exception without a text";
  }
}
