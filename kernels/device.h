// How the threads of a GPU share work: the device's half of portable.h.
//
// Every kernel is right for any grid and any block of whole warps (unless it says otherwise): the
// geometry decides only its speed. Sums are added in an order that the geometry fixes, so that the
// same launch gives the same bits each time; nothing is added by atomics but whole numbers.
#pragma once

#define ALL_LANES 0xffffffffu

SCALAR size_t thread_x() { return blockIdx.x * (size_t)blockDim.x + threadIdx.x; }
SCALAR size_t threads_x() { return gridDim.x * (size_t)blockDim.x; }
SCALAR size_t thread_y() { return blockIdx.y * (size_t)blockDim.y + threadIdx.y; }
SCALAR size_t threads_y() { return gridDim.y * (size_t)blockDim.y; }
SCALAR bool first_thread() { return thread_x() == 0 && thread_y() == 0; }
SCALAR uint32 thread_in_block() { return threadIdx.y * blockDim.x + threadIdx.x; }

// ---------------------------------------------------------------- memory, 16 bytes at once

// an array whose old content is not read, which saves a third of the traffic of a = f(z); where its
// address is null nothing is written
template <class T>
struct Fresh { T* address; };

template <class T>
SCALAR Fresh<T> fresh(T* address) { return {address}; }

// what a kernel does with an array
template <class Array>
struct Access;
template <class T>
struct Access<T*> { typedef T Entry; static const bool read = true, written = true; };
template <class T>
struct Access<const T*> { typedef T Entry; static const bool read = true, written = false; };
template <class T>
struct Access<Fresh<T>> { typedef T Entry; static const bool read = false, written = true; };

template <class T>
SCALAR T* address_of(T* array) { return array; }
template <class T>
SCALAR T* address_of(const T* array) { return const_cast<T*>(array); }
template <class T>
SCALAR T* address_of(Fresh<T> array) { return array.address; }

template <class Entry, int WIDTH>
SCALAR constexpr size_t alignment() { return WIDTH * sizeof(Entry) < 16 ? WIDTH * sizeof(Entry) : 16; }

// whether WIDTH entries at the start of each array may be accessed at once
template <int WIDTH, class... Array>
SCALAR bool aligned(Array... arrays) {
    return ((reinterpret_cast<size_t>(address_of(arrays)) %
             alignment<typename Access<Array>::Entry, WIDTH>() == 0) && ...);
}

// Up to COUNT vectors of WIDTH neighbouring entries, `step` entries apart. All are loaded before the
// first is used, so that their loads overlap, and stored when the tile ends.
template <class Array, int WIDTH, int COUNT>
struct Tile {
    typedef typename Access<Array>::Entry Entry;
    struct alignas(alignment<Entry, WIDTH>()) Vector { Entry lane[WIDTH]; };

    Entry* address;
    size_t step;
    int count;
    Vector vectors[COUNT];

    __device__ __forceinline__ Tile(Array array, size_t offset, size_t step, int count)
        : address(address_of(array)), step(step), count(count) {
        if (Access<Array>::read || address) address += offset;
        if constexpr (Access<Array>::read) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                if (i < count) vectors[i] = memory(i);
        }
    }
    __device__ __forceinline__ ~Tile() {
        if constexpr (Access<Array>::written) {
            if (!Access<Array>::read && !address) return;
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                if (i < count) memory(i) = vectors[i];
        }
    }
    __device__ __forceinline__ Vector& memory(int i) {
        return *reinterpret_cast<Vector*>(address + i * step);
    }
    __device__ __forceinline__ Entry& operator()(int i, int lane) { return vectors[i].lane[lane]; }
};

template <int WIDTH, int COUNT, class Body, class... Tiles>
SCALAR void visit(size_t first, size_t stride, int count, Body& body, Tiles&&... tiles) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        if (i < count) {
#pragma unroll
            for (int lane = 0; lane < WIDTH; ++lane)
                body(first + i * stride, lane, tiles(i, lane)...);
        }
    }
}

// body(i, lane, entries...) for the vectors i = first, first + stride, ... < end, COUNT of them at
// once; vector i of an array is the WIDTH entries from offset + i pitch on
template <int WIDTH, int COUNT, class Body, class... Array>
SCALAR void walk(size_t first, size_t stride, size_t end, size_t offset, size_t pitch, Body body,
                 Array... arrays) {
#pragma unroll 1
    for (size_t i = first; i < end; i += COUNT * stride) {
        int count = 1;
#pragma unroll
        for (int k = 1; k < COUNT; ++k) count += k * stride < end - i;
        visit<WIDTH, COUNT>(i, stride, count, body, Tile<Array, WIDTH, COUNT>(
            arrays, offset + i * pitch, stride * pitch, count)...);
    }
}

// ---------------------------------------------------------------- vectors and matrices

// body(array[i]...) for each i < n, in any order; the arrays do not overlap
template <class Body, class... Array>
SCALAR void for_each(size_t n, Body body, Array... arrays) {
    constexpr int COUNT = sizeof...(Array) <= 2 ? 4 : 2;  // more would cost registers
    const auto visitor = [&](size_t, int, auto&... entries) { body(entries...); };
    const size_t fours = aligned<4>(arrays...) ? n / 4 : 0;
    walk<4, COUNT>(thread_x(), threads_x(), fours, 0, 4, visitor, arrays...);
    walk<1, COUNT>(4 * fours + thread_x(), threads_x(), n, 0, 1, visitor, arrays...);
}

template <int WIDTH, class OfColumn, class Body, class... Array>
SCALAR void for_columns(size_t rows, size_t columns, OfColumn of_column, Body body, Array... arrays) {
    for (size_t column = WIDTH * thread_x(); column < columns; column += WIDTH * threads_x()) {
        decltype(of_column(column)) held[WIDTH];
#pragma unroll
        for (int lane = 0; lane < WIDTH; ++lane) held[lane] = of_column(column + lane);
        const auto visitor = [&](size_t row, int lane, auto&... entries) {
            body(row, held[lane], entries...);
        };
        walk<WIDTH, 2>(thread_y(), threads_y(), rows, column, columns, visitor, arrays...);
    }
}

// body(row, of_column(column), entries...) for each entry of matrices (rows, columns). A thread
// stays in its columns (x) and goes from row to row (y), so what belongs to a column is read once.
template <class OfColumn, class Body, class... Array>
SCALAR void for_matrix(size_t rows, size_t columns, OfColumn of_column, Body body, Array... arrays) {
    if (columns % 4 == 0 && aligned<4>(arrays...))
        for_columns<4>(rows, columns, of_column, body, arrays...);
    else
        for_columns<1>(rows, columns, of_column, body, arrays...);
}

// ---------------------------------------------------------------- rows

struct Top { float value; size_t column; };

// the larger one; of equals the first, so that the order of comparisons does not matter
SCALAR Top larger(Top a, Top b) {
    const bool second = b.value > a.value || (b.value == a.value && b.column < a.column);
    return second ? b : a;
}

// The lanes that share a row: a power of two, no more than a warp or a row has. Their entries are
// neighbours, so a warp reads 128 bytes at once although each lane reads only four.
struct Team {
    uint32 lanes, lane;

    __device__ __forceinline__ explicit Team(size_t columns) : lanes(1) {
        while (lanes < 32 && lanes < columns) lanes *= 2;
        lane = threadIdx.x % lanes;
    }

    // the sum over the team; every lane gets the same bits
    template <class T>
    __device__ __forceinline__ T sum(T value) const {
        for (uint32 other = lanes / 2; other > 0; other /= 2)
            value += __shfl_xor_sync(ALL_LANES, value, other);
        return value;
    }

    // the sum of term(column) over a row
    template <class Term>
    __device__ __forceinline__ auto sum_over(size_t columns, Term term) const {
        decltype(term(columns)) total = 0;
#pragma unroll 4
        for (size_t column = lane; column < columns; column += lanes) total += term(column);
        return sum(total);
    }

    // the largest value(column) of a row, NaN left out
    template <class Value>
    __device__ __forceinline__ Top top(size_t columns, Value value) const {
        Top best = {-INFINITE, ~(size_t)0};
#pragma unroll 4
        for (size_t column = lane; column < columns; column += lanes)
            best = larger(best, Top{value(column), column});
        for (uint32 other = lanes / 2; other > 0; other /= 2)
            best = larger(best, Top{__shfl_xor_sync(ALL_LANES, best.value, other),
                                    __shfl_xor_sync(ALL_LANES, best.column, other)});
        return best;
    }
};

// body(team, row, columns) for each row, by one team. A warp stays together, because its lanes
// exchange numbers: where rows run out, a team is given a row of no columns.
template <class Body>
SCALAR void for_rows(size_t rows, size_t columns, Body body) {
    const Team team(columns);
    const uint32 lane_in_warp = threadIdx.x % 32;
    const size_t number_in_warp = lane_in_warp / team.lanes;
    for (size_t first = (thread_x() - lane_in_warp) / team.lanes; first < rows;
         first += threads_x() / team.lanes) {
        const size_t row = first + number_in_warp;
        body(team, row, row < rows ? columns : 0);
    }
}

// ---------------------------------------------------------------- sums of many threads

// the sum over a block of one dimension; every thread gets the same bits. Between two calls there
// must be a barrier.
template <class T>
SCALAR T block_sum(T value) {
    __shared__ T of_warp[32];
    const Team warp(32);
    value = warp.sum(value);
    if (warp.lane == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    return warp.sum(warp.lane < blockDim.x / 32 ? of_warp[warp.lane] : (T)0);
}

// Whether this block is the last of `blocks` that come here; it then sees what all wrote before. What
// threads other than the first wrote must lie behind a barrier. The ticket is zero before and after.
SCALAR bool last_of(uint32 blocks, uint32* ticket) {
    __shared__ bool last;
    if (thread_in_block() == 0) {
        __threadfence();
        last = atomicAdd(ticket, 1u) == blocks - 1;
        if (last) *ticket = 0;
        __threadfence();
    }
    __syncthreads();
    return last;
}
