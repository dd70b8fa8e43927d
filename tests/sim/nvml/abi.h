/* The part of NVML's binary interface that the simulator fills in: types, codes and struct layouts.
 *
 * In: nothing. Out: declarations that every source file of the library uses. They are facts of the interface
 * (sizes, orders, numbers), written down here in our own words; tests/sim/test_abi.py compares every layout
 * with what nvidia-ml-py declares. A struct that begins with `version` carries sizeof(struct) | number << 24 there.
 */
#ifndef NVSIM_ABI_H
#define NVSIM_ABI_H

typedef int nvmlReturn_t;
enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_FUNCTION_NOT_FOUND = 13,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_RESET_REQUIRED = 16,
    NVML_ERROR_OPERATING_SYSTEM = 17,
    NVML_ERROR_IN_USE = 19,
    NVML_ERROR_MEMORY = 20,
    NVML_ERROR_INSUFFICIENT_RESOURCES = 23,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_NOT_READY = 27,
    NVML_ERROR_GPU_NOT_FOUND = 28,
    NVML_ERROR_UNKNOWN = 999,
};

typedef struct sim_device *nvmlDevice_t;
typedef struct sim_gi_handle *nvmlGpuInstance_t;
typedef struct sim_ci_handle *nvmlComputeInstance_t;
typedef struct sim_event_set *nvmlEventSet_t;

typedef unsigned int u32;
typedef unsigned long long u64;

#define NVML_VERSION_OF(type, number) ((u32)(sizeof(type) | ((u32)(number) << 24)))

enum { NVML_INIT_FLAG_NO_GPUS = 1 };
enum { NVML_ANY_INSTANCE = 0xFFFFFFFF };

/* ---- identity ---- */
typedef struct {
    char busIdLegacy[16];
    u32 domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

typedef struct {
    u32 version;
    u32 domain, bus, device, pciDeviceId, pciSubSystemId, baseClass, subClass;
    char busId[32];
} nvmlPciInfoExt_t;

typedef struct { u32 version, type; union { char str[41]; unsigned char bytes[16]; } value; } nvmlUUID_t;
typedef struct { u32 version; char branch[80]; } nvmlSystemDriverBranchInfo_t;
typedef struct { u32 version; u64 value; } nvmlPdi_t;
typedef struct { u32 version, capMask; } nvmlDeviceCapabilities_t;
typedef struct { u32 version, value; } nvmlDeviceAddressingMode_t;
typedef struct {
    u32 version;
    unsigned char ibGuid[16], rackGuid[16];
    unsigned char chassisSlot, computeSlot, nodeIndex, peerType, moduleId;
} nvmlPlatformInfo_v1_t;
typedef struct {
    u32 version;
    unsigned char ibGuid[16], chassisSerialNumber[16];
    unsigned char slotNumber, trayIndex, hostId, peerType, moduleId;
} nvmlPlatformInfo_v2_t;

/* ---- memory and errors ---- */
typedef struct { u64 total, free, used; } nvmlMemory_t;
typedef struct { u32 version; u64 total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { u64 total, free, used; } nvmlBAR1Memory_t;
typedef struct { u64 l1Cache, l2Cache, deviceMemory, registerFile; } nvmlEccErrorCounts_t;
typedef struct {
    u32 version;
    u64 aggregateUncParity, aggregateUncSecDed, aggregateCor;
    u64 volatileUncParity, volatileUncSecDed, volatileCor;
    u64 uncBucketL2, uncBucketSm, uncBucketPcie, uncBucketMcu, uncBucketOther;
    u32 thresholdExceeded;
} nvmlEccSramErrorStatus_t;
typedef struct { u32 max, high, partial, low, none; } nvmlRowRemapperHistogramValues_t;
typedef struct { u32 version, channelRepairPending, tpcRepairPending; } nvmlRepairStatus_t;

/* ---- telemetry ---- */
typedef struct { u32 gpu, memory; } nvmlUtilization_t;
typedef struct { u32 version; u32 sensorType; int temperature; } nvmlTemperature_t;
typedef struct { u32 version; int marginTemperature; } nvmlMarginTemperature_t;
typedef struct { u64 referenceTime, violationTime; } nvmlViolationTime_t;
typedef struct { u32 sessionsCount, averageFPS, averageLatency; } nvmlFBCStats_t;
typedef struct {
    u32 gpuUtilization, memoryUtilization;
    u64 maxMemoryUsage, time, startTime;
    u32 isRunning, reserved[5];
} nvmlAccountingStats_t;
typedef struct { u32 version, mode, numProcArrayEntries; void *procArray; } nvmlProcessDetailList_t;
typedef struct { u32 version, powerScope, powerValueMw; } nvmlPowerValue_t;
typedef struct { u32 isGridLicenseSupported, licensableFeaturesCount; } nvmlGridLicensableFeaturesHead_t;

typedef union { double dVal; int siVal; u32 uiVal; unsigned long ulVal; u64 ullVal; long long sllVal; } nvmlValue_t;
typedef struct {
    u32 fieldId, scopeId;
    long long timestamp, latencyUsec;
    u32 valueType;
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;
enum { NVML_VALUE_DOUBLE = 0, NVML_VALUE_UINT = 1, NVML_VALUE_ULONG = 2, NVML_VALUE_ULONGLONG = 3, NVML_VALUE_INT = 5 };

/* ---- fabric ---- */
typedef struct { unsigned char clusterUuid[16]; nvmlReturn_t status; u32 cliqueId; unsigned char state; } nvmlGpuFabricInfo_t;
typedef struct {
    u32 version;
    unsigned char clusterUuid[16];
    nvmlReturn_t status;
    u32 cliqueId;
    unsigned char state;
    u32 healthMask;
} nvmlGpuFabricInfo_v2_t;
typedef struct {
    u32 version;
    unsigned char clusterUuid[16];
    nvmlReturn_t status;
    u32 cliqueId;
    unsigned char state;
    u32 healthMask;
    unsigned char healthSummary;
} nvmlGpuFabricInfo_v3_t;
typedef struct { u32 isC2cEnabled; } nvmlC2cModeInfo_t;
typedef struct { u32 version, isNvleEnabled; } nvmlNvLinkInfo_v1_t;

/* ---- confidential computing (always off here) ---- */
typedef struct { u32 cpuCaps, gpusCaps; } nvmlConfComputeSystemCaps_t;
typedef struct { u32 environment, ccFeature, devToolsMode; } nvmlConfComputeSystemState_t;
typedef struct { u32 version, environment, ccFeature, devToolsMode, multiGpuMode; } nvmlSystemConfComputeSettings_t;
typedef struct { u64 protectedKib, unprotectedKib; } nvmlConfComputeMemSizeInfo_t;

/* ---- MIG ---- */
typedef struct { u32 start, size; } nvmlPlacement_t;
typedef struct {
    u32 id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount;
    u32 copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount;
    u64 memorySizeMB;
} nvmlGpuInstanceProfileInfo_t;
typedef struct {
    u32 version;
    u32 id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount;
    u32 copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount;
    u64 memorySizeMB;
    char name[96];
} nvmlGpuInstanceProfileInfo_v2_t;
typedef struct {
    u32 version;
    u32 id, sliceCount, instanceCount, multiprocessorCount;
    u32 copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount;
    u64 memorySizeMB;
    char name[96];
    u32 capabilities;
} nvmlGpuInstanceProfileInfo_v3_t;
typedef struct { nvmlDevice_t device; u32 id, profileId; nvmlPlacement_t placement; } nvmlGpuInstanceInfo_t;
typedef struct {
    u32 id, sliceCount, instanceCount, multiprocessorCount;
    u32 sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount, sharedJpegCount, sharedOfaCount;
} nvmlComputeInstanceProfileInfo_t;
typedef struct {
    u32 version;
    nvmlComputeInstanceProfileInfo_t info;
    char name[96];
} nvmlComputeInstanceProfileInfo_v2_t;
typedef struct {
    u32 version;
    nvmlComputeInstanceProfileInfo_t info;
    char name[96];
    u32 capabilities;
} nvmlComputeInstanceProfileInfo_v3_t;
typedef struct {
    nvmlDevice_t device;
    nvmlGpuInstance_t gpuInstance;
    u32 id, profileId;
    nvmlPlacement_t placement;
} nvmlComputeInstanceInfo_t;
typedef struct {
    u32 multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount;
    u32 sharedJpegCount, sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
    u64 memorySizeMB;
} nvmlDeviceAttributes_t;

/* ---- events ---- */
typedef struct { nvmlDevice_t device; u64 eventType, eventData; u32 gpuInstanceId, computeInstanceId; } nvmlEventData_t;
typedef struct { nvmlDevice_t device; u64 eventType, eventData; } nvmlEventData_v1_t;

#endif
