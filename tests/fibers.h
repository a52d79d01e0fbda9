// A GPU for tests: runs CUDA kernels on the CPU, the threads of a block as fibers that take turns.
//
// Included before a kernel's source, it defines what CUDA builds in. A fiber runs until a barrier
// stops it. A correct kernel does not depend on who runs first, so each launch can be run in three
// orders, which must agree in every bit: where a barrier is missing, one of them reads too early.
// Access that a device would refuse (misaligned, null, beyond a local array) ends the launch.
#pragma once
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
// a section of its own, so that blocks that take turns can have their own content
#define __shared__ static __attribute__((section("gpu_shared")))

extern "C" __attribute__((weak, visibility("hidden"))) char __start_gpu_shared[], __stop_gpu_shared[];

namespace fibers {

enum Order { FORWARD, REVERSED, LEADERS };  // the last: see run_wave
enum Failure { NONE, DEADLOCK, BAD_ACCESS };

struct Index { unsigned x, y, z; };
inline Index thread, block, block_size, grid_size;

struct Barrier { unsigned waiting = 0, passed = 0; };

struct Block {
    Index index;
    unsigned live;  // fibers that have not ended
    Barrier barrier, of_warp[32];
    std::vector<char> shared;
};

struct Fiber {
    Index index;
    unsigned number;  // in its block
    Block* block;
    ucontext_t start;
    jmp_buf state;
    bool started = false, done = false;
    uint64_t slot[2];  // what it shows to its warp, in turns
    unsigned exchanges = 0;
};

inline const std::function<void()>* body;
inline Fiber* current;
inline Block* in_memory;  // whose shared memory is in the section
inline jmp_buf scheduler;
inline unsigned long steps;  // counts whatever brings a launch nearer to its end
inline Failure failure;

const size_t STACK = 1 << 16, MOST_FIBERS = 2048;

__attribute__((noinline, noipa)) inline void yield() {
    if (_setjmp(current->state) == 0) _longjmp(scheduler, 1);
}

[[noreturn]] inline void fail(Failure why) {
    failure = why;
    _longjmp(scheduler, 1);
}

inline void wait(Barrier& barrier, const unsigned& needed) {
    const unsigned mine = barrier.passed;
    ++barrier.waiting;
    while (barrier.passed == mine)
        if (barrier.waiting >= needed) {
            barrier.waiting = 0;
            ++barrier.passed;
            ++steps;
        } else {
            yield();
        }
}

inline unsigned threads_of_block() { return block_size.x * block_size.y * block_size.z; }

inline void wait_for_warp() {
    const unsigned warp = current->number / 32;
    const unsigned size = std::min(32u, threads_of_block() - 32 * warp);
    wait(current->block->of_warp[warp], size);
}

template <class T>
T of_lane(T value, unsigned lane) {
    const unsigned turn = current->exchanges++ & 1;
    memcpy(&current->slot[turn], &value, sizeof(T));
    wait_for_warp();
    Fiber* const first_of_warp = current - current->number % 32;
    memcpy(&value, &first_of_warp[lane].slot[turn], sizeof(T));
    return value;
}

inline void main_of_fiber() {
    (*body)();
    current->done = true;
    --current->block->live;
    ++steps;
    _longjmp(scheduler, 1);
}

inline void enter(Block& next) {
    if (in_memory == &next) return;
    const size_t size = __stop_gpu_shared - __start_gpu_shared;
    if (in_memory) in_memory->shared.assign(__start_gpu_shared, __start_gpu_shared + size);
    if (size) memcpy(__start_gpu_shared, next.shared.data(), size);
    in_memory = &next;
}

__attribute__((noinline)) inline void prepare(Fiber& fiber, char* stack) {
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stack;
    fiber.start.uc_stack.ss_size = STACK;
    makecontext(&fiber.start, main_of_fiber, 0);
}

__attribute__((noinline)) inline void resume(Fiber& fiber) {
    enter(*fiber.block);
    current = &fiber;
    thread = fiber.index;
    block = fiber.block->index;
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.state, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

// all fibers of a block, in turns, until they have ended
inline void run_block(Fiber* first, unsigned n, bool reversed) {
    while (first->block->live && !failure) {
        const unsigned long before = steps;
        for (unsigned i = 0; i < n && !failure; ++i) {
            Fiber& fiber = first[reversed ? n - 1 - i : i];
            if (!fiber.done) resume(fiber);
        }
        if (steps == before && !failure) failure = DEADLOCK;
    }
}

// Run blocks that are on the GPU at the same time. LEADERS: thread 0 of each block goes first, and
// then the last block runs to its end before any other goes on.
inline void run_wave(std::vector<Block>& blocks, std::vector<Fiber>& all, Order order) {
    const unsigned n = threads_of_block();
    if (order == LEADERS)
        for (size_t i = 0; i < blocks.size() && !failure; ++i) resume(all[i * n]);
    for (size_t i = 0; i < blocks.size() && !failure; ++i)
        run_block(&all[(order == FORWARD ? i : blocks.size() - 1 - i) * n], n, order == REVERSED);
}

inline Index unflatten(size_t i, Index size) {
    return {unsigned(i % size.x), unsigned(i / size.x % size.y), unsigned(i / size.x / size.y)};
}

inline int launch(const unsigned* shape, int order, const std::function<void()>& kernel) {
    static char* const stacks = (char*)mmap(nullptr, MOST_FIBERS * STACK, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    grid_size = {shape[0], shape[1], shape[2]};
    block_size = {shape[3], shape[4], shape[5]};
    body = &kernel;
    failure = NONE;
    const size_t threads = threads_of_block(), count = size_t(shape[0]) * shape[1] * shape[2];
    const size_t at_once = std::max<size_t>(1, MOST_FIBERS / threads);
    const size_t waves = (count + at_once - 1) / at_once;
    for (size_t i = 0; i < waves && !failure; ++i) {
        const size_t first = (order == REVERSED ? waves - 1 - i : i) * at_once;
        std::vector<Block> blocks(std::min(at_once, count - first));
        std::vector<Fiber> all(blocks.size() * threads);
        for (size_t b = 0; b < blocks.size(); ++b) {
            blocks[b].index = unflatten(first + b, grid_size);
            blocks[b].live = threads;
            // a device leaves anything in shared memory: NaN
            blocks[b].shared.assign(__stop_gpu_shared - __start_gpu_shared, char(0xff));
        }
        for (size_t f = 0; f < all.size(); ++f) {
            all[f].number = f % threads;
            all[f].index = unflatten(f % threads, block_size);
            all[f].block = &blocks[f / threads];
            prepare(all[f], stacks + f * STACK);
        }
        in_memory = nullptr;
        run_wave(blocks, all, Order(order));
    }
    return failure;
}

template <class T>
T in_slot(uint64_t slot) {
    T value;
    memcpy(&value, &slot, sizeof(T));
    return value;
}

template <class... T, size_t... I>
int launch(const unsigned* shape, int order, const uint64_t* slots, void (*kernel)(T...),
           std::index_sequence<I...>) {
    return launch(shape, order, [=] { kernel(in_slot<T>(slots[I])...); });
}

template <class... T>
int launch(const unsigned* shape, int order, const uint64_t* slots, void (*kernel)(T...)) {
    return launch(shape, order, slots, kernel, std::index_sequence_for<T...>());
}

}  // namespace fibers

// what -fsanitize calls
extern "C" __attribute__((weak)) void __ubsan_handle_type_mismatch_v1(void*, void*) {
    fibers::fail(fibers::BAD_ACCESS);
}
extern "C" __attribute__((weak)) void __ubsan_handle_out_of_bounds(void*, void*) {
    fibers::fail(fibers::BAD_ACCESS);
}

#define threadIdx fibers::thread
#define blockIdx fibers::block
#define blockDim fibers::block_size
#define gridDim fibers::grid_size

inline void __syncthreads() {
    fibers::Block& block = *fibers::current->block;
    fibers::wait(block.barrier, block.live);  // threads that have ended count as arrived
}
inline void __syncwarp(unsigned = ~0u) { fibers::wait_for_warp(); }
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned, T value, unsigned lane) {
    return fibers::of_lane(value, lane % 32);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    return fibers::of_lane(value, fibers::current->number % 32 ^ mask);
}
template <class T>
T atomicAdd(T* address, T value) {
    const T old = *address;
    *address += value;
    return old;
}

// also exported as a launcher, which takes the grid's and the block's shape, the order of threads
// and the arguments in slots of 8 bytes, and returns a Failure
#define KERNEL(name, ...)                                                                          \
    static void name(__VA_ARGS__);                                                                 \
    extern "C" int launch_##name(const unsigned* shape, int order, const uint64_t* slots) {        \
        return fibers::launch(shape, order, slots, name);                                          \
    }                                                                                              \
    static void name(__VA_ARGS__)
