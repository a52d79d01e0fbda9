// What makes a C++ function a kernel of the native library: the CPU's half of portable.h.
//
// Every kernel is exported as a function of one pointer, to an array of 8-byte slots with its
// arguments. So Python binds arguments once, whatever their types, and a whole training step is one
// array of calls that C++ walks through. Its parameters are exported as text, which Python reads.
//
// A kernel may be run in parts, by several threads: each then does its `share` of the rows, columns
// or entries. Which kernels do so, and from which size on, is said in gpumlp/backend/native.py.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <utility>

#include "threads.h"

#if defined(__GNUC__)
  #define ALWAYS_INLINE __attribute__((always_inline))
  #define EXPORT extern "C" __attribute__((visibility("default")))
#else
  #define ALWAYS_INLINE
  #define EXPORT extern "C" __declspec(dllexport)
#endif

// one function, compiled for AVX2 and FMA and for any processor; the loader picks (glibc)
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
  #define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
  #define CLONES
#endif

#define SCALAR static inline ALWAYS_INLINE
#define INLINE ALWAYS_INLINE

typedef uint64_t Slot;

template <class T>
SCALAR T in_slot(Slot slot) {
    T value;
    memcpy(&value, &slot, sizeof(T));
    return value;
}

template <class... T, size_t... I>
SCALAR void call(void (*function)(T...), const Slot* slots, std::index_sequence<I...>) {
    function(in_slot<T>(slots[I])...);
}

template <class... T>
SCALAR void call(void (*function)(T...), const Slot* slots) {
    call(function, slots, std::index_sequence_for<T...>());
}

// the prefix keeps clear of the C library's names (glibc has a function `step`)
#define KERNEL(name, ...)                                                  \
    static void name(__VA_ARGS__);                                         \
    EXPORT const char gpumlp_##name##_parameters[];                        \
    const char gpumlp_##name##_parameters[] = #__VA_ARGS__;                \
    EXPORT void gpumlp_##name(const Slot* slots) { call(name, slots); }    \
    CLONES static void name(__VA_ARGS__)
