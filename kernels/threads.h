// The threads that run a recorded step together, each its part of every call.
//
// One pool in the process: while these threads share products, BLAS's own stay out (two pools that
// wait for each other take ten times as long, measured). Which thread runs which part changes no
// result, so where the threads are taken or cannot be had, one thread runs all parts.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
  #include <pthread.h>
#endif

// ---------------------------------------------------------------- parts

struct Part {
    size_t number, count;
};

static thread_local Part part = {0, 1};  // which part of a call is being run here, of how many

struct Range {
    size_t first, last;
};

// this part of 0 .. n; all parts but the last begin and end at multiples of `grain`
static inline Range share(size_t n, size_t grain = 1) {
    const size_t each = (n + part.count * grain - 1) / (part.count * grain) * grain;
    const size_t first = each * part.number, last = first + each;
    return {first < n ? first : n, last < n ? last : n};
}

// ---------------------------------------------------------------- runs

struct Call {
    void (*function)(const uint64_t* slots);
    const uint64_t* slots;
    uint64_t parts;
};

// `times` times all calls in order, by so many threads
struct Run {
    const Call* calls;
    size_t count, times, threads;
};

static inline void pause_briefly() {
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__GNUC__) && defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Waits for a while without giving the core away, which a sleeping thread would get back too late.
template <class Condition>
static inline bool soon(Condition condition) {
    for (int i = 0; i < 2000; ++i) {
        if (condition()) return true;
        pause_briefly();
    }
    return false;
}

// BLAS's functions that read and set its own number of threads
struct BlasThreads {
    int (*get)();
    void (*set)(int);
};

class Team {
  public:
    // Runs with as many threads as there are, at most those asked for.
    void run(Run run, BlasThreads blas) {
        begin(blas);
        run_together(run);
        end(blas);
    }

    // BLAS's own number of threads outside of runs: how many there may be here
    int threads(int (*blas_threads)()) {
        std::lock_guard<std::mutex> lock(mutex_);
        return runs_ ? blas_threads_ : blas_threads();
    }

  private:
    std::mutex taken_, mutex_;  // held for a run; for what follows
    std::condition_variable wake_;
    Run run_ = {};
    uint64_t before_ = 0;  // arrivals before this run
    size_t workers_ = 0;
    size_t runs_ = 0;  // under way, also those without the team
    int blas_threads_ = 1;
    std::atomic<uint64_t> generation_{0};  // runs together so far
    std::atomic<uint64_t> arrived_{0};     // threads that ended a stretch, never set back

    void begin(BlasThreads blas) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!runs_++) blas_threads_ = blas.get(), blas.set(1);
    }

    void end(BlasThreads blas) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!--runs_) blas.set(blas_threads_);
    }

    void run_together(Run run) {
        std::unique_lock<std::mutex> mine(taken_, std::try_to_lock);
        const size_t there = mine.owns_lock() ? 1 + workers(run.threads - 1) : 1;
        if (run.threads > there) run.threads = there;
        const uint64_t before = arrived_;
        if (run.threads > 1) {
            std::lock_guard<std::mutex> lock(mutex_);
            run_ = run, before_ = before, ++generation_;
            wake_.notify_all();
        }
        walk(run, 0, before);
    }

    // Returns how many workers there are, after making so many if possible.
    size_t workers(size_t wanted) {
        try {
            for (; workers_ < wanted; ++workers_)
                std::thread(&Team::work, this, workers_ + 1, generation_.load()).detach();
        } catch (const std::system_error&) {  // no more threads for this process
        }
        return workers_;
    }

    void work(size_t thread, uint64_t seen) {
        for (;;) {
            soon([&] { return generation_ != seen; });
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            const Run run = run_;
            const uint64_t before = before_;
            lock.unlock();
            if (thread < run.threads) walk(run, thread, before);
        }
    }

    // A thread's way through a run. All wait for each other where parts of a call meet other parts.
    void walk(const Run& run, size_t thread, uint64_t target) {
        const Part outside = part;
        for (size_t time = 1; time <= run.times; ++time) {
            for (size_t i = 0; i < run.count; ++i) {
                const Call& call = run.calls[i];
                const size_t parts = call.parts;
                for (size_t number = thread; number < parts; number += run.threads) {
                    part = {number, parts};
                    call.function(call.slots);
                }
                if (run.threads == 1) continue;
                const bool ends = i + 1 == run.count, last = ends && time == run.times;
                if (parts > 1 || last || run.calls[ends ? 0 : i + 1].parts > 1)
                    meet(target += run.threads);
            }
        }
        part = outside;
    }

    void meet(uint64_t target) {
        const auto all_are_here = [&] { return arrived_ >= target; };
        ++arrived_;
        while (!soon(all_are_here)) std::this_thread::yield();
    }
};

// A copy of the process has none of its threads, so it begins with a new team; the old one's memory
// stays, as it does at the end of the process: workers may still look at it.
static Team* team = new Team;

#if !defined(_WIN32)
[[maybe_unused]] static const int forks = pthread_atfork(nullptr, nullptr, [] { team = new Team; });
#endif
